import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import PGDL2, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.seeds import Noise

# logits = (w . (x - 0.5), 0) with ||w||_2 = 5: an image with margin m falls just when m / 5 < eps.
W = torch.tensor([3.0, 0.0, 0.0, -4.0])
RADII = [0.05, 0.1, 0.15, 0.25, 0.3, 0.35]
NOISE = Noise.first(0, "tests", np.arange(6))
GOAL = Untargeted(torch.zeros(6, dtype=torch.int64))


@pytest.fixture
def affine():
    layer = nn.Linear(4, 2)
    layer.weight.data = torch.stack([W, torch.zeros(4)])
    layer.bias.data = torch.tensor([0.5, 0.0])
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def images():
    return (0.5 + torch.tensor(RADII)[:, None] * W / 5).reshape(6, 1, 2, 2)


@pytest.mark.parametrize("engine", [perturb, search])
@pytest.mark.parametrize(
    "attack",
    [PGDL2(eps=0.2, steps=5, random_start=False), PGDL2(eps=0.2, steps=100, step_size=0.05)],
    ids=repr,
)
def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(engine, attack, affine, images):
    x_adv = engine(attack, affine, images, GOAL, NOISE).x_adv
    standing = (affine(x_adv).argmax(dim=1) == 0).tolist()
    assert standing == [False, False, False, True, True, True]


def test_ends_where_the_ball_lies_farthest_against_the_weights(affine, images):
    x_adv = perturb(PGDL2(eps=0.04, random_start=False), affine, images, GOAL, NOISE).x_adv
    torch.testing.assert_close(x_adv, images - 0.04 * W.reshape(1, 2, 2) / 5)


def test_a_step_has_its_length_whatever_the_gradient(affine, images):
    affine[1].weight.data.mul_(1e-4)
    attack = PGDL2(eps=0.2, steps=2, step_size=0.03, random_start=False)
    x_adv = perturb(attack, affine, images, GOAL, NOISE).x_adv
    torch.testing.assert_close(x_adv, images - 0.06 * W.reshape(1, 2, 2) / 5)


def test_a_step_has_its_length_when_the_gradient_is_tiny(affine, images):
    # Squares of 1e-25 are zero in single precision: the usual state of a confident network.
    affine[1].weight.data.mul_(1e-25)
    attack = PGDL2(eps=0.2, steps=2, step_size=0.03, random_start=False)
    x_adv = perturb(attack, affine, images, GOAL, NOISE).x_adv
    torch.testing.assert_close(x_adv, images - 0.06 * W.reshape(1, 2, 2) / 5)


def test_starts_uniformly_in_the_ball():
    # Of a uniform point of a ball in d dimensions, (radius / eps) ** d is uniform on [0, 1].
    x = torch.full((400, 1, 2, 2), 0.5)
    goal = Untargeted(torch.zeros(400, dtype=torch.int64))
    noise = Noise.first(0, "tests", np.arange(400))
    start = PGDL2(eps=0.4).start(x, goal, noise).x_adv - x
    share = (start.flatten(1).norm(dim=1) / 0.4) ** 4
    ranks = (torch.arange(400) + 0.5) / 400
    assert (share.sort().values - ranks).abs().max() < 1.63 / 20  # Kolmogorov-Smirnov, 1 %
    # No direction is preferred: E[u u'] = I / (d + 2).
    second = start.flatten(1).T @ start.flatten(1) / 400 / 0.4**2
    torch.testing.assert_close(second, torch.eye(4) / 6, atol=0.03, rtol=0)
    assert start.mean(dim=0).abs().max() < 0.03
