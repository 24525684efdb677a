from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import APGD, PGD, APGDTargeted, Targeted, Untargeted
from bezoar.attacks.apgd import advanced, path
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.starts import in_ball
from bezoar.classifier import prepare
from bezoar.seeds import Noise, generator


def noise_of(count):
    return Noise.first(0, "tests", np.arange(count))


@pytest.fixture
def network():
    """A small network of random weights in float64, and images that it holds right."""
    rng = generator(0, "tests", "apgd")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
    model = model.double().requires_grad_(False)
    for layer in (model[1], model[3]):
        layer.weight *= 4
    x = torch.rand(9, 1, 4, 5, generator=rng).double()
    return model, x, model(x).argmax(dim=1)


def loop(model, x, y, start, eps, steps, norm):
    """Algorithm 1 of the paper for one image, step by step; also the step sizes that it used."""

    def ask(point):
        point = point.detach().requires_grad_()
        value = nn.functional.cross_entropy(model(point), y)
        value.backward()
        slope = point.grad.sign() if norm == "linf" else point.grad / point.grad.norm()
        return value.item(), slope

    def project(z):
        if norm == "linf":
            return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1)
        return (x + (z - x) * min(1, eps / max((z - x).norm().item(), 1e-12))).clamp(0, 1)

    shares = [0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    marks = [int(np.ceil(share * steps)) for share in shares]
    here, before, eta = start, start, 2 * eps
    values, best, sizes = [], None, [eta]
    mark, halved, best_at_mark = 0, True, None
    for k in range(steps):
        value, slope = ask(here)
        values.append(value)
        if best is None or value > best[0]:
            best = (value, here, slope)
        if k in marks[1:]:
            rose = sum(b > a for a, b in pairwise(values[mark : k + 1]))
            slow = rose < 0.75 * (k - mark)
            still = not halved and best[0] == best_at_mark
            mark, best_at_mark, halved = k, best[0], slow or still
            if halved:
                eta /= 2
                values[-1], here, slope = best
            sizes.append(eta)
        z = project(here + eta * slope)
        alpha = 1 if k == 0 else 0.75
        here, before = project(here + alpha * (z - here) + (1 - alpha) * (here - before)), here
    return best, sizes


@pytest.mark.parametrize("steps", [1, 7, 60])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 0.8)])
def test_is_the_algorithm_of_the_paper_image_by_image(network, norm, eps, steps):
    model, x, y = network
    start = in_ball(x, eps, norm, noise_of(9))
    attack = APGD(eps=eps, norm=norm, steps=steps)
    found = perturb(attack, model, x, Untargeted(y), noise_of(9), batch=4)
    sizes = []
    for i in range(9):
        (_, point, _), used = loop(model, *(t[i : i + 1] for t in (x, y, start)), eps, steps, norm)
        torch.testing.assert_close(found.x_adv[i : i + 1], point, atol=1e-9, rtol=0)
        sizes.append(used[-1])
    # The rule is at work: images end with step sizes of their own.
    assert steps < 60 or len(set(sizes)) > 1


def test_counts_a_pass_each_way_a_step(network):
    model, x, y = network
    found = perturb(APGD(eps=0.3, steps=7), model, x, Untargeted(y), noise_of(9))
    assert found.forward.tolist() == found.backward.tolist() == [7] * 9


def test_hands_back_the_point_with_the_highest_loss(network):
    model, x, y = network
    asked = []

    class Watched(nn.Module):
        def forward(self, points):
            logits = model(points)
            asked.append(cross_entropy(logits.detach(), Untargeted(y)))
            return logits

    found = perturb(APGD(eps=0.3, steps=30), Watched(), x, Untargeted(y), noise_of(9))
    highest = torch.stack(asked).max(dim=0).values
    torch.testing.assert_close(cross_entropy(model(found.x_adv), Untargeted(y)), highest)


def test_images_of_different_ages_do_not_disturb_each_other(network):
    _, x, _ = network
    start = path(x, x, torch.zeros(9, dtype=torch.int64))
    value = torch.linspace(0, 1, 9).double()
    slope = torch.ones_like(x)
    ages = torch.tensor([0, 3, 22, 23, 41, 60, 80, 90, 99])
    mixed = advanced(start._replace(age=ages), value, slope, 0.1, "linf", 100)
    for i in range(9):
        alone = type(start)(*(entry[i : i + 1] for entry in start._replace(age=ages)))
        alone = advanced(alone, value[i : i + 1], slope[i : i + 1], 0.1, "linf", 100)
        for whole, one in zip(mixed, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], one)


@pytest.mark.parametrize(
    "attack", [APGD(eps=0.1), APGD(eps=0.1, loss="dlr"), APGDTargeted(eps=0.1)]
)
def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(attack, blocks, images):
    goal = Untargeted(torch.ones(8, dtype=torch.int64))
    x_adv = search(attack, blocks, images, goal, noise_of(8)).x_adv
    standing = (blocks(x_adv).argmax(dim=1) == 1).tolist()
    assert standing == [False] * 4 + [True] * 4


@pytest.mark.parametrize("kind", [APGD, APGDTargeted])
def test_in_l2_it_reaches_what_a_step_along_the_gradient_would(kind, blocks, images):
    # Distance to the border of class 0: margin over the norm of the difference of weights.
    weight, logits = blocks[1].weight, blocks(images)
    margins = logits[:, 1:2] - logits[:, [0, 2]]
    norms = torch.stack([(weight[1] - weight[k]).norm() for k in (0, 2)])
    least = (margins / norms).amin(dim=1)
    eps = least[3:5].mean().item()
    goal = Untargeted(torch.ones(8, dtype=torch.int64))
    x_adv = search(kind(eps=eps, norm="l2"), blocks, images, goal, noise_of(8)).x_adv
    assert torch.equal(blocks(x_adv).argmax(dim=1) == 1, least > eps)


def test_towards_a_class_it_reaches_that_class_and_no_other(blocks, images):
    goal = Targeted(torch.full((8,), 2))
    x_adv = search(APGD(eps=0.45), blocks, images, goal, noise_of(8)).x_adv
    assert blocks(x_adv).argmax(dim=1).tolist() == [2] * 8


def test_dlr_sees_through_logits_that_drown_the_cross_entropy(blocks, images):
    class Loud(nn.Module):
        def forward(self, x):
            return 1e6 * blocks(x)

    goal = Untargeted(torch.ones(8, dtype=torch.int64))
    fooled = {
        loss: (search(attack, prepare(Loud()), images, goal, noise_of(8)).first_success >= 0).sum()
        for loss, attack in {
            "ce": PGD(eps=0.1, random_start=False),
            "dlr": APGD(eps=0.1, loss="dlr"),
        }.items()
    }
    assert fooled == {"ce": 0, "dlr": 4}


class TestTargeted:
    def test_counts_the_pass_that_chooses_the_target(self, network):
        model, x, y = network
        found = perturb(APGDTargeted(eps=0.3, steps=7), model, x, Untargeted(y), noise_of(9))
        assert found.forward.tolist() == [8] * 9
        assert found.backward.tolist() == [7] * 9
