"""The zoo: networks that mask their gradients on purpose, each in its own way, and honest ones.

What the standard audit finds of each. Masking is what makes a weak network look strong, so the
audit has to say that it is there, and the figure for the worst case has to be right all the same.
"""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import audit
from bezoar.attacks import FGSM, PGD, Attack, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.data import load
from bezoar.models.initial import initialise
from bezoar.referee import measure
from bezoar.seeds import Noise, generator, hashed_normal

pytestmark = pytest.mark.slow

EPS = 0.2
OVERFITTED = 0.3  # radius at which FGSM overfits
SEEDS = range(5)


@cache
def digits():
    return load("digits")


@cache
def trained(seed: int, inner: Attack | None = None, *, epochs: int = 10, width: int = 128):
    """A network without convolutions, on clean images or on those that ``inner`` makes of them."""
    layers = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 10))
    initialise(model, generator(seed, "tests", "zoo"))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng = generator(seed, "tests", "zoo order")
    for epoch in range(epochs):
        for rows in torch.randperm(len(digits().train), generator=rng).split(64):
            x, y = digits().train.batch(rows)
            if inner is not None:
                noise = Noise(seed, "tests/zoo", rows.numpy(), np.full(len(rows), epoch))
                x = perturb(inner, model, x, Untargeted(y), noise).x_adv
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def audited(model, *, eps=EPS, images=150):
    """Kinds of the warnings of the standard audit, and the worst-case robust accuracy."""
    tested = digits().test.first(images)
    found = [measure(attack, model, tested, seed=0) for attack in audit.evasion(eps, ())]
    warnings = audit.suspicions(model, tested, found)
    return {warning.kind for warning in warnings}, audit.worst_case(found, eps).value


class Then(nn.Module):
    """Any function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Turned(torch.autograd.Function):
    """The identity, with its gradient turned round."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def rounded(x):
    return (x * 8).round() / 8


def resized(x):
    side = int(torch.randint(8, 12, ()))
    larger = F.interpolate(x, size=side, mode="bilinear", align_corners=False)
    return F.interpolate(larger, size=8, mode="bilinear", align_corners=False)


def dropped(x):
    return F.dropout(x, 0.2, training=True)


class DeclaredRounding(nn.Module):
    def forward(self, x):
        return rounded(x)

    def surrogate(self, x):
        return x


class DeclaredNoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.keys = None

    def reseed(self, keys):
        self.keys = keys

    def forward(self, x):
        zero = torch.zeros_like(self.keys)
        return x + 0.1 * hashed_normal(self.keys, zero, x.shape[1:]).to(x)


class TestMaskers:
    @pytest.mark.parametrize(
        ("mask", "kind"),
        [
            (lambda network: nn.Sequential(network, Then(lambda z: 1e4 * z)), "zero-gradients"),
            (lambda network: nn.Sequential(Then(rounded), network), "zero-gradients"),
            (lambda network: nn.Sequential(Then(torch.detach), network), "zero-gradients"),
            (lambda network: nn.Sequential(Then(Turned.apply), network), "masked-gradients"),
            (
                lambda network: nn.Sequential(Then(lambda x: x + 0.02 * (400 * x).sin()), network),
                "masked-gradients",
            ),
            (lambda network: nn.Sequential(network, nn.Softmax(dim=1)), "probabilities"),
        ],
        ids=["logits x 1e4", "rounding", "detached", "turned round", "shattered", "softmax"],
    )
    def test_are_named_and_do_not_look_stronger_than_they_are(self, mask, kind):
        kinds, standing = audited(mask(trained(0)))
        assert kind in kinds
        assert standing < 0.1

    @pytest.mark.parametrize("noise", [resized, dropped])
    def test_noise_that_is_not_declared_is_named_and_nothing_else(self, noise):
        torch.manual_seed(0)  # it draws from torch's own generator, whatever ran before
        kinds, standing = audited(nn.Sequential(Then(noise), trained(0)), images=24)
        assert kinds == {"random-outputs"}
        assert standing < 0.2

    def test_training_that_overfits_to_one_step(self):
        network = trained(0, FGSM(eps=OVERFITTED), epochs=60, width=256)
        kinds, standing = audited(network, eps=OVERFITTED)
        assert kinds == {"masked-gradients"}
        assert standing < 0.1


class TestHonest:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_networks_are_not_accused(self, seed):
        assert audited(trained(seed))[0] == set()

    @pytest.mark.parametrize("seed", SEEDS)
    def test_adversarially_trained_ones_are_not_either_and_stand_better(self, seed):
        kinds, standing = audited(trained(seed, PGD(eps=EPS, steps=3), epochs=15))
        assert kinds == set()
        assert standing > 0.25

    @pytest.mark.parametrize(
        ("defence", "images"), [(DeclaredRounding(), 150), (DeclaredNoise(), 24)]
    )
    def test_defences_that_declare_themselves_are_not_either(self, defence, images):
        kinds, standing = audited(nn.Sequential(defence, trained(0)), images=images)
        assert kinds == set()
        assert standing < 0.2
