import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import FAB, FABTargeted, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search, shrink
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES, onto_plane
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


@pytest.fixture
def network():
    """A small network of random weights in float64, and images that it holds right."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
        x = torch.rand(8, 1, 4, 5).double()
    model = model.double().requires_grad_(False)
    for layer in (model[1], model[3]):
        layer.weight *= 4
    return model, x, model(x).argmax(dim=1)


def loop(model, x, y, start, norm, steps):
    """Algorithm 1 of the paper for one image: the points that it comes to, one a step."""
    order, dual = {"linf": (float("inf"), 1), "l2": (2, 2)}[norm]
    here, points = start, []
    for _ in range(steps):
        borders = []
        for k in {0, 1, 2, 3} - {y}:
            point = here.clone().requires_grad_()
            logits = model(point)[0]
            (logits[k] - logits[y]).backward()
            value, w = (logits[k] - logits[y]).item(), point.grad
            borders.append((abs(value) / w.flatten().norm(dual).item(), value, w))
        _, value, w = min(borders, key=lambda border: border[0])
        b = ((w * here).sum() - value).reshape(1)
        step, pull = (onto_plane(z, w, b, norm) - z for z in (here, x))
        lengths = [z.flatten().norm(order).item() for z in (step, pull)]
        alpha = min(lengths[0] / sum(lengths), 0.1)
        here = (1 - alpha) * (here + 1.05 * step) + alpha * (x + 1.05 * pull)
        here = here.clamp(0, 1)
        if model(here).argmax().item() != y:
            here = 0.1 * x + 0.9 * here
        points.append(here)
    return torch.cat(points)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("draw", [0, 1])
def test_is_the_algorithm_of_the_paper_image_by_image(network, norm, draw):
    model, x, y = network
    attack = FAB(eps=0.5, norm=norm, steps=12)
    noise = Noise(0, "tests", NOISE.index, NOISE.draws + draw)
    oracle = Answers(model, attack, x, Untargeted(y))
    states = [attack.start(x, oracle, noise)]
    for _ in range(attack.steps):
        states.append(attack.step(states[-1], oracle))
    found = torch.stack([state.x_adv for state in states[1:]])
    for i in range(8):
        start = states[0].x_adv[i : i + 1]
        points = loop(model, x[i : i + 1], y[i].item(), start, norm, attack.steps)
        torch.testing.assert_close(found[:, i], points, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_later_starts_lie_at_half_of_eps_in_directions_of_their_own(norm):
    x = torch.full((8, 1, 3, 4), 0.5)
    logits = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    attack = FAB(eps=0.3, norm=norm)
    oracle = Answers(logits, attack, x, ONES)
    mixed = Noise(0, "tests", NOISE.index, np.array([0, 1, 0, 1, 2, 3, 0, 1]))
    begun = attack.start(x, oracle, mixed).x_adv
    half = [0, 0.15, 0, 0.15, 0.15, 0.15, 0, 0.15]
    torch.testing.assert_close(DISTANCES[norm](begun, x), torch.tensor(half))
    assert (begun[1] != begun[3]).all()


def test_restarts_need_a_radius():
    with pytest.raises(ValueError, match=r"restarts=2: expected 1 where eps=inf"):
        FAB(restarts=2)


def test_more_restarts_are_never_worse(network):
    model, x, y = network
    last = torch.full((8,), torch.inf).double()
    for restarts in (1, 2, 4):
        attack = FAB(eps=1, steps=5, restarts=restarts)
        found = shrink(attack, model, x, Untargeted(y), NOISE)
        distance = DISTANCES["linf"](found.x_adv, x)
        assert (distance <= last).all()
        last = distance


def test_with_two_classes_it_is_the_targeted_one(network):
    model, x, _ = network
    pair = nn.Sequential(model, nn.Linear(4, 2, bias=False).double()).requires_grad_(False)
    pair[1].weight.data = torch.eye(4).double()[:2]
    y = Untargeted(pair(x).argmax(dim=1))
    one = shrink(FAB(steps=10), pair, x, y, NOISE).x_adv
    other = shrink(FABTargeted(steps=10, restarts=1), pair, x, y, NOISE).x_adv
    torch.testing.assert_close(one, other)


def test_counts_what_it_asks(blocks, images):
    found = perturb(FAB(eps=0.1, steps=6), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [14] * 8
    assert found.backward.tolist() == [3 * 6] * 8


def test_refuses_a_goal_that_is_one_class(blocks, images):
    with pytest.raises(ValueError, match="targeted goal: expected one that leads away"):
        search(FAB(), blocks, images, Targeted(ONES.aim), NOISE)
