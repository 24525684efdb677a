"""Universal: one perturbation, learnt from other images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.attacks import Targeted, UniformNoise, Universal, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.classifier import predict
from bezoar.data.imageset import ImageSet
from bezoar.geometry import DISTANCES
from bezoar.seeds import Noise, generator

NOISE = Noise.first(0, "tests", np.arange(12))
W = torch.tensor([1.0, -2.0, 3.0, -4.0]).repeat(5)


def images_of(x, y):
    return ImageSet(x, y, np.arange(len(x)), ("a", "b", "c"), "others/validation")


def affine(weight, bias=0.0):
    """Two classes; the first has the logit ``w x + b``, the other 0."""
    layer = nn.Linear(20, 2)
    layer.weight.data = torch.stack([weight, torch.zeros(20)])
    layer.bias.data = torch.tensor([bias, 0.0])
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def others(convnet):
    """Sixty images that nobody attacks, with the classes that the small network gives them."""
    x = torch.rand(60, 1, 4, 5, generator=generator(0, "tests", "universal"))
    return images_of(x, predict(convnet, x).argmax(dim=1))


def change_of(attack):
    return attack.learnt.tensors["change"][0]


@pytest.mark.parametrize(
    ("norm", "expected"), [("linf", -0.1 * W.sign()), ("l2", -0.1 * W / W.norm())]
)
def test_of_an_affine_network_it_is_the_steepest_way_down(norm, expected):
    x = 0.3 + 0.4 * torch.rand(6, 1, 4, 5, generator=generator(0, "tests", "affine"))
    zeros = torch.zeros(6, dtype=torch.int64)
    attack = Universal(eps=0.1, norm=norm, batch=4).fit(affine(W), images_of(x, zeros), seed=0)
    torch.testing.assert_close(change_of(attack).flatten(), expected)
    x_adv = attack(affine(W, 50), x, zeros)  # far from its border, so that all are moved
    torch.testing.assert_close(x_adv, x + expected.reshape(1, 1, 4, 5))


def test_fitting_is_the_loop_of_the_paper(convnet, others):
    attack = Universal(eps=0.2, epochs=7, batch=60, step_size=0.05, clip=1.2)
    found = change_of(attack.fit(convnet, others, seed=0))
    model, x = convnet.double(), others.pixels.double()
    change = torch.zeros(1, 4, 5, dtype=torch.float64)
    for _ in range(7):
        change.requires_grad_()
        losses = F.cross_entropy(model((x + change).clamp(0, 1)), others.labels, reduction="none")
        (gradient,) = torch.autograd.grad(torch.minimum(losses, torch.tensor(1.2)).sum(), change)
        change = (change.detach() + 0.05 * gradient.sign()).clamp(-0.2, 0.2)
    torch.testing.assert_close(found.double(), change, atol=1e-6, rtol=0)


def test_an_image_whose_loss_is_beyond_the_bound_has_no_say():
    # Of class 1, and far on the side of class 0: it would pull harder than the image of class 0.
    low, high = 0.5 - 0.01 * W, 0.5 + 0.1 * W
    x = torch.stack([low, high]).reshape(2, 1, 4, 5)
    model = affine(W, -0.5 * W.sum().item())
    pair = images_of(x, torch.tensor([0, 1]))
    bounded = change_of(Universal(eps=0.01).fit(model, pair, seed=0))
    torch.testing.assert_close(bounded.flatten(), -0.01 * W.sign())
    unbounded = change_of(Universal(eps=0.01, clip=1e6).fit(model, pair, seed=0))
    torch.testing.assert_close(unbounded.flatten(), 0.01 * W.sign())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fools_more_images_that_it_has_not_seen_than_chance(norm, convnet, others):
    eps = {"linf": 0.15, "l2": 0.15 * 20**0.5}[norm]
    x = torch.rand(200, 1, 4, 5, generator=generator(0, "tests", "unseen"))
    y = predict(convnet, x).argmax(dim=1)
    attack = Universal(eps=eps, norm=norm).fit(convnet, others, seed=0)
    by_it = predict(convnet, attack(convnet, x, y)).argmax(dim=1) != y
    by_noise = predict(convnet, UniformNoise(eps=0.15)(convnet, x, y)).argmax(dim=1) != y
    assert by_it.sum() > 1.5 * by_noise.sum()


def test_more_passes_over_the_images_raise_their_loss(convnet, others):
    def loss(epochs):
        attack = Universal(eps=0.15, epochs=epochs, step_size=0.03).fit(convnet, others, seed=0)
        x_adv = (others.pixels + change_of(attack)).clamp(0, 1)
        return F.cross_entropy(predict(convnet, x_adv), others.labels).item()

    losses = [loss(epochs) for epochs in (1, 2, 4)]
    assert losses == sorted(losses)


def test_all_images_get_the_same_for_one_pass_each(convnet, others, batch):
    x, y = 0.25 + batch[0] / 2, batch[1]
    attack = Universal(eps=0.2).fit(convnet, others, seed=0)
    found = perturb(attack, convnet.requires_grad_(False), x, Untargeted(y), NOISE, batch=5)
    changes = found.x_adv - x
    torch.testing.assert_close(changes, changes[:1].expand_as(changes), atol=1e-6, rtol=0)
    assert found.backward.tolist() == [0] * 12
    assert (found.forward <= 1).all()


def test_a_smaller_ball_cuts_what_was_learnt_in_a_larger_one(convnet, others, batch):
    attack = replace(Universal(eps=0.2).fit(convnet, others, seed=0), eps=0.05)
    x_adv = attack(convnet, *batch)
    assert DISTANCES["linf"](x_adv, batch[0]).max() <= 0.05 + 1e-6


def test_the_seed_names_the_order_of_the_images(convnet, others):
    attack = Universal(eps=0.15, epochs=1, batch=7)
    first, again, other = (attack.fit(convnet, others, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_refuses_a_class_to_lead_to(convnet, others, batch):
    attack = Universal().fit(convnet, others, seed=0)
    with pytest.raises(ValueError, match="targeted goal: expected one that leads away"):
        attack(convnet, batch[0], Targeted(batch[1]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
        ({"batch": 0}, "batch=0: expected an integer >= 1"),
        ({"step_size": -1.0}, r"step_size=-1\.0: expected a number at least 0"),
        ({"clip": float("nan")}, "clip=nan: expected a number at least 0"),
        ({"norm": "l1"}, "norm 'l1': expected one of l2, linf"),
    ],
)
def test_refuses_settings_that_mean_nothing(fields, message):
    with pytest.raises(ValueError, match=message):
        Universal(**fields)
