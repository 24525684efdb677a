import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import UniformNoise, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.seeds import Noise

COUNT = 400


class FirstClass(nn.Module):
    """Always says class 0."""

    def forward(self, x):
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


@pytest.fixture
def change():
    """What the noise adds to 400 grey images of 20 pixels, in units of eps."""
    x = torch.full((COUNT, 1, 4, 5), 0.5)
    goal = Untargeted(torch.zeros(COUNT, dtype=torch.int64))
    noise = Noise.first(0, "tests", np.arange(COUNT))
    x_adv = perturb(UniformNoise(eps=0.4), FirstClass(), x, goal, noise).x_adv
    return ((x_adv - x) / 0.4).flatten(1).double()


def test_the_moments_are_those_of_the_uniform_distribution(change):
    # Mean 0, variance 1/3 and fourth moment 1/5, each within four standard errors of 8000 draws.
    size = change.numel() ** 0.5
    assert change.mean().abs() < 4 * (1 / 3) ** 0.5 / size
    assert (change.square().mean() - 1 / 3).abs() < 4 * (4 / 45) ** 0.5 / size
    assert (change.pow(4).mean() - 1 / 5).abs() < 4 * (16 / 225) ** 0.5 / size


def test_it_fills_the_whole_ball(change):
    assert -1 <= change.min() < -0.99
    assert 0.99 < change.max() <= 1


def test_images_are_independent_of_each_other(change):
    # The mean over 20 independent pixels has variance 1/60; neighbours share nothing.
    means = change.mean(dim=1)
    assert (means.var() - 1 / 60).abs() < 4 * (2 / COUNT) ** 0.5 / 60
    product = (change[:-1] * change[1:]).mean()
    assert product.abs() < 4 / 3 / (20 * (COUNT - 1)) ** 0.5


def test_it_asks_for_no_gradient_and_judges_every_draw():
    x = torch.full((3, 1, 2, 2), 0.5)
    goal = Untargeted(torch.zeros(3, dtype=torch.int64))
    noise = Noise.first(0, "tests", np.arange(3))
    found = search(UniformNoise(eps=0.1, restarts=5), FirstClass(), x, goal, noise)
    assert found.forward.tolist() == [5, 5, 5]
    assert found.backward.tolist() == [0, 0, 0]
    assert found.first_success.tolist() == [-1, -1, -1]
