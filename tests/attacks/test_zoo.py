import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import ZOO, Targeted, Untargeted
from bezoar.attacks.engine import perturb, shrink
from bezoar.attacks.losses import margin
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l2_distance
from bezoar.seeds import Noise, hashed

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


def walked(attack, model, x, goal):
    """The last state of a search."""
    oracle = Answers(model, attack, x, goal)
    state = attack.start(x, oracle, NOISE)
    for _ in range(attack.steps):
        state = attack.step(state, oracle)
    return state


@pytest.fixture
def least(blocks, images):
    """Exact L2 distance of each image to another class: margin over the norm of the weights."""
    weight, logits = blocks[1].weight, blocks(images)
    pairs = [(logits[:, 1] - logits[:, k]) / (weight[1] - weight[k]).norm() for k in (0, 2)]
    return torch.stack(pairs).amin(dim=0)


def test_is_within_5_percent_of_the_nearest_image_of_an_affine_classifier(blocks, images, least):
    attack = ZOO(steps=300, coordinates=6, lr=0.003, c=0.3)
    x_adv = shrink(attack, blocks, images, ONES, NOISE).x_adv
    assert (blocks(x_adv).argmax(dim=1) != 1).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    ratio = l2_distance(x_adv, images) / least
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() <= 1.05


@pytest.fixture
def network():
    """A small network of random weights in float64, and images, some of them at 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
        x = (1.5 * torch.rand(8, 1, 4, 5) - 0.25).clamp(0, 1).double()
    model = model.double().requires_grad_(False)
    return model, x, Untargeted(model(x).argmax(dim=1))


@pytest.mark.parametrize("coordinates", [1, 7, 20])
def test_estimates_the_gradient(network, coordinates):
    # Central differences are exact up to h^2, at the border of the box up to h.
    model, x, goal = network
    attack = ZOO(h=1e-5, kappa=100)
    chosen = torch.rand(8, 20, generator=torch.Generator().manual_seed(1)).argsort(dim=1)
    chosen = chosen[:, :coordinates]
    point = x.clone().requires_grad_()
    (-margin(model(point), goal)).sum().backward()
    slope = attack._slope(x, chosen, Answers(model, attack, x, goal))
    exact = point.grad.flatten(1).gather(1, chosen)
    torch.testing.assert_close(slope, exact, atol=1e-5, rtol=0)


def loop(model, x, y, key, *, steps, coordinates, lr, c, h=1e-4):
    """ZOO-Adam on one image, coordinate by coordinate."""
    clean = x.flatten()
    here, m, v, t = clean.clone(), *torch.zeros(3, len(clean)).double()

    def f(point):
        z = model(point.reshape(1, *x.shape))[0]
        return max((z[y] - torch.cat([z[:y], z[y + 1 :]]).max()).item(), 0)

    for step in range(steps):
        order = hashed(key, torch.tensor([step]), (len(clean),)).argsort(dim=1)[0]
        new = here.clone()
        for k in order[:coordinates].tolist():
            up, down = here.clone(), here.clone()
            up[k], down[k] = min(here[k] + h, 1), max(here[k] - h, 0)
            g = 2 * (here[k] - clean[k]) + c * (f(up) - f(down)) / (up[k] - down[k])
            t[k] += 1
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g**2
            mean, square = m[k] / (1 - 0.9 ** t[k]), v[k] / (1 - 0.999 ** t[k])
            new[k] = here[k] - lr * mean / (square.sqrt() + 1e-8)
        here = new.clamp(0, 1)
    return here.reshape(x.shape)


def test_is_the_algorithm_of_the_paper_image_by_image(network):
    model, x, goal = network
    settings = {"steps": 40, "coordinates": 3, "lr": 0.02, "c": 2.0}
    found = walked(ZOO(**settings), model, x, goal).x_adv
    for i in range(8):
        key = NOISE.keys()[i : i + 1]
        expected = loop(model, x[i], goal.aim[i], key, **settings)
        torch.testing.assert_close(found[i], expected, atol=1e-8, rtol=0)


def test_asks_for_scores_only_and_counts_them(blocks, images):
    class Blind(nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return blocks(x)

    found = perturb(ZOO(steps=3, coordinates=5), Blind(), images, ONES, NOISE)
    assert found.forward.tolist() == [3 * 11 + 1] * 8
    assert found.backward.tolist() == [0] * 8


def test_has_no_more_coordinates_than_the_image(blocks, images):
    found = perturb(ZOO(steps=1, coordinates=100), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [1 + 2 * 12 + 1] * 8


def test_a_step_leaves_all_but_its_coordinates_alone(blocks, images):
    state = walked(ZOO(coordinates=5, steps=1), blocks, images, ONES)
    assert ((state.x_adv != images).flatten(1).sum(dim=1) <= 5).all()
    assert (state.updates.sum(dim=1) == 5).all()


def test_towards_a_class_it_ends_there(blocks, images):
    goal = Targeted(torch.full((8,), 2))
    x_adv = shrink(ZOO(steps=200, coordinates=6), blocks, images, goal, NOISE).x_adv
    assert (blocks(x_adv).argmax(dim=1) == 2).all()


def test_kappa_asks_for_a_lead(blocks, images):
    attack = ZOO(steps=200, coordinates=6, kappa=1.0)
    x_adv = walked(attack, blocks, images, ONES).x_adv
    assert (margin(blocks(x_adv), ONES) > 0.9).all()
