"""Admix: MI-FGSM on mixtures with images of other classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bezoar.attacks import MIFGSM, SIFGSM, Admix, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.data.imageset import ImageSet
from bezoar.seeds import Noise, generator

NOISE = Noise.first(0, "tests", np.arange(12))
EPS, STEPS, MU, ETA = 0.1, 4, 0.7, 0.3


def images_of(labels, seed=0):
    """Random images of the classes named."""
    x = torch.rand(len(labels), 1, 4, 5, generator=generator(seed, "tests", "admix"))
    y, index = torch.tensor(labels), np.arange(len(labels))
    return ImageSet(x, y, index, tuple("abcdefghij"), "others/validation")


@pytest.fixture
def case(convnet, batch):
    """Twelve images of the first two classes."""
    return convnet.double().requires_grad_(False), batch[0].double(), torch.arange(12) % 2


def run(attack, case):
    model, x, y = case
    return perturb(attack, model, x, Untargeted(y), NOISE, batch=5)


def test_is_the_loop_of_the_paper(case):
    # One image of each class is kept, so that each has exactly one partner.
    model, x, y = case
    pair = images_of([0, 1])
    attack = Admix(eps=EPS, steps=STEPS, decay=MU, eta=ETA, copies=3, samples=2)
    partner = pair.pixels.double()[1 - y]
    x_adv, velocity = x, torch.zeros_like(x)
    for _ in range(STEPS):
        point = x_adv.clone().requires_grad_()
        copies = [(point + ETA * partner) / 2**i for i in range(3)]
        losses = [F.cross_entropy(model(copy), y, reduction="sum") for copy in copies]
        (gradient,) = torch.autograd.grad(sum(losses) / 3, point)
        velocity = MU * velocity + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        x_adv = x_adv + EPS / STEPS * velocity.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    found = run(attack.fit(model, pair, seed=0), case)
    torch.testing.assert_close(found.x_adv, x_adv, atol=1e-9, rtol=0)
    assert found.forward.tolist() == found.backward.tolist() == [3 * 2 * STEPS] * 12


@pytest.mark.parametrize(
    ("copies", "decay", "expected"),
    [
        (1, MU, MIFGSM(eps=EPS, steps=STEPS, decay=MU)),
        (3, 0, SIFGSM(eps=EPS, steps=STEPS, decay=0, copies=3)),  # it looks ahead along momentum
    ],
)
def test_without_other_images_it_is_what_it_is_made_of(case, copies, decay, expected):
    attack = Admix(eps=EPS, steps=STEPS, decay=decay, eta=0, copies=copies, samples=2)
    found = run(attack.fit(case[0], images_of([0, 1, 2]), seed=0), case)
    torch.testing.assert_close(found.x_adv, run(expected, case).x_adv, atol=1e-9, rtol=0)


def test_draws_every_image_of_another_class_equally_often_and_none_of_its_own(convnet):
    attack = Admix().fit(convnet, images_of([3, 1, 0, 1, 3, 1]), seed=0)
    labels = attack.learnt.tensors["labels"]
    assert labels.tolist() == [0, 1, 1, 1, 3, 3]
    draws = (torch.arange(60) + 0.5) / 60

    def counts(aim):
        rows = attack._others(draws, torch.full((60,), aim))
        return torch.bincount(rows, minlength=6).tolist()

    assert counts(0) == [0, 12, 12, 12, 12, 12]
    assert counts(1) == [20, 0, 0, 0, 20, 20]
    assert counts(3) == [15, 15, 15, 15, 0, 0]
    assert counts(2) == counts(9) == [10] * 6  # classes of which none is kept


def test_keeps_no_more_images_than_asked_for_each_with_its_class(convnet):
    others = images_of([0, 1, 2] * 10)
    kept = Admix(pool=12).fit(convnet, others, seed=0).learnt.tensors
    assert kept["images"].shape == (12, 1, 4, 5)
    matches = (kept["images"][:, None] == others.pixels[None]).flatten(2).all(dim=2)
    assert matches.sum(dim=1).tolist() == [1] * 12
    assert torch.equal(others.labels[matches.float().argmax(dim=1)], kept["labels"])


def test_the_seed_chooses_the_images(convnet):
    attack, others = Admix(pool=12), images_of([0, 1, 2] * 10)
    first, again, other = (attack.fit(convnet, others, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_other_images_lead_elsewhere(case):
    attack = Admix(eps=EPS, steps=STEPS)
    first, other = (
        run(attack.fit(case[0], images_of([0, 1, 2] * 4, seed=seed), seed=0), case).x_adv
        for seed in (0, 1)
    )
    assert not torch.equal(first, other)


def test_refuses_to_be_fitted_on_one_class(convnet):
    with pytest.raises(ValueError, match=r"3 images of others/validation, all of class 2: exp"):
        Admix().fit(convnet, images_of([2, 2, 2]), seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"copies": 0}, "copies=0: expected an integer >= 1"),
        ({"samples": 0}, "samples=0: expected an integer >= 1"),
        ({"pool": 1}, "pool=1: expected an integer >= 2"),
        ({"eta": -0.1}, r"eta=-0\.1: expected a number at least 0"),
    ],
)
def test_refuses_settings_that_mean_nothing(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(Admix(), **fields)
