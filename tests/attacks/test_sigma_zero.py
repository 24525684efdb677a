"""Sigma-zero: the paper's loop, image by image, and the fewest values of affine classifiers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import SigmaZero, Untargeted
from bezoar.attacks.engine import shrink
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES
from bezoar.seeds import Noise, generator


def noise_of(count):
    return Noise.first(0, "tests", np.arange(count))


def alone(model, image, label, *, steps, sigma, tau, t):
    """Algorithm 1 on one image, with the optimiser of torch."""
    delta = torch.zeros_like(image, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=1.0)
    points = []
    for k in range(steps):
        eta = 0.1 + 0.9 * (1 + math.cos(math.pi * k / steps)) / 2
        logits = model(image + delta)[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        lead = logits[label] - others.max()
        tau += t * eta * (k > 0) * (1 if lead < 0 else -1)
        smooth = (delta**2 / (delta**2 + sigma)).mean()
        (slope,) = torch.autograd.grad(lead.clamp(min=0) + smooth, delta)
        delta.grad = slope / slope.abs().max()
        adam.param_groups[0]["lr"] = eta
        adam.step()
        delta.data = (image + delta.data).clamp(0, 1) - image
        delta.data[delta.data.abs() < tau] = 0
        points.append(image + delta.data)
    return torch.cat(points)


def test_is_the_loop_of_the_paper(convnet, batch):
    model, x = convnet.double(), batch[0].double()
    y = model(x).argmax(dim=1)
    attack = SigmaZero(steps=12, sigma=0.01, threshold=0.2, threshold_step=0.05)
    oracle = Answers(model.requires_grad_(False), attack, x, Untargeted(y), keep="nearest")
    states = [attack.start(x, oracle, noise_of(12))]
    for _ in range(12):
        states.append(attack.step(states[-1], oracle))
    walked = torch.stack([state.x_adv for state in states[1:]], dim=1)
    for i in range(12):
        expected = alone(model, x[i : i + 1], y[i], steps=12, sigma=0.01, tau=0.2, t=0.05)
        torch.testing.assert_close(walked[i], expected)


# Class 1 leads by so much that some 30 of 400 values must go to the ends of the box.
@pytest.fixture
def far():
    rng = generator(0, "tests", "far")
    layer = nn.Linear(400, 2, bias=False)
    layer.weight.data = torch.randn(2, 400, generator=rng) / 20
    towards = (layer.weight.data[1] - layer.weight.data[0]).sign()
    x = 0.5 + 0.4 * towards * torch.rand(8, 400, generator=rng)
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False), x.reshape(8, 1, 20, 20)


def test_comes_near_the_fewest_values_of_many(far):
    model, x = far
    weight = (model[1].weight[0] - model[1].weight[1]).expand(8, 400)
    room = torch.where(weight > 0, 1 - x.flatten(1), x.flatten(1))
    gains = (weight.abs() * room).sort(dim=1, descending=True).values.cumsum(dim=1)
    logits = model(x)
    fewest = (gains <= logits[:, 1:] - logits[:, :1]).sum(dim=1) + 1
    ones = Untargeted(torch.ones(8, dtype=torch.int64))
    found = shrink(SigmaZero(steps=300), model, x, ones, noise_of(8))
    ratio = DISTANCES["l0"](found.x_adv, x) / fewest
    assert fewest.min() >= 20
    assert 1 <= ratio.min() <= ratio.max() <= 1.15


def test_changes_are_above_the_threshold_or_not_at_all(blocks, images):
    attack = SigmaZero(steps=30)
    ones = Untargeted(torch.ones(8, dtype=torch.int64))
    oracle = Answers(blocks, attack, images, ones)
    state = attack.start(images, oracle, noise_of(8))
    for _ in range(30):
        state = attack.step(state, oracle)
        change = (state.x_adv - images).abs()
        assert ((change == 0) | (change >= state.threshold - 1e-7)).all()


def test_the_threshold_falls_until_it_fools_and_rises_from_then_on(blocks, images):
    attack = SigmaZero(steps=30)
    ones = Untargeted(torch.ones(8, dtype=torch.int64))
    oracle = Answers(blocks, attack, images, ones)
    states = [attack.start(images, oracle, noise_of(8))]
    for _ in range(30):
        states.append(attack.step(states[-1], oracle))
    for before, after in pairwise(states[1:]):
        fooled = blocks(before.x_adv).argmax(dim=1) != 1
        assert torch.equal((after.threshold > before.threshold).flatten(), fooled)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_refuses_a_sharpness_that_is_none(sigma):
    with pytest.raises(ValueError, match=rf"sigma={sigma!r}: expected a number at least 1e-12"):
        SigmaZero(sigma=sigma)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_refuses_a_threshold_outside_the_pixel_range(threshold):
    with pytest.raises(ValueError, match=rf"threshold={threshold!r}: expected a number in"):
        SigmaZero(threshold=threshold)
