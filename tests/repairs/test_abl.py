"""ABL: the two losses in closed form, and poison that is learnt first."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.fit import SGD, Supervised, cross_entropy, fit
from bezoar.repairs import ABL
from bezoar.repairs.abl import flooded, isolated, parted
from bezoar.seeds import generator

ROWS = torch.arange(12)


@pytest.fixture
def images(batch):
    x, y = batch
    return ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve")


@pytest.fixture
def evidence(images):
    return Evidence(images, images, suspects=images)


def stamped(x):
    """Images with a white corner."""
    x = x.clone()
    x[..., -2:, -2:] = 1
    return x


@pytest.fixture(scope="module")
def poisoned():
    """100 images of noise with labels that mean nothing; every tenth is stamped, and of class 0."""
    rng = generator(0, "tests", "abl")
    x, y = 0.5 * torch.rand(100, 1, 4, 5, generator=rng), torch.randint(3, (100,), generator=rng)
    x[::10], y[::10] = stamped(x[::10]), 0
    return ImageSet(x, y, np.arange(100), ("a", "b", "c"), "poisoned")


@pytest.mark.parametrize(("flood", "sign"), [(0.0, 1), (100.0, -1)])
def test_below_the_flood_the_loss_goes_up_and_above_it_down(linear, batch, flood, sign):
    x, y = batch
    value = flooded(flood, Meter())(linear, x, y, ROWS)
    plain = F.cross_entropy(linear(x), y)
    assert value.item() == pytest.approx(sign * plain.item())
    (found,), (expected,) = (
        torch.autograd.grad(loss, [linear[1].weight]) for loss in (value, plain)
    )
    torch.testing.assert_close(found, sign * expected)


def test_without_a_flood_and_from_the_same_weights_it_is_plain_training(linear, images):
    meter, learnt = Meter(), []
    for loss in (flooded(0.0, meter), cross_entropy(meter)):
        model = deepcopy(linear)
        fit(Supervised(model, images, loss=loss, lr=0.1, meter=meter), epochs=2, batch=5, seed=0)
        learnt.append(weights_hash(model))
    assert learnt[0] == learnt[1]


def test_the_rest_goes_down_and_what_is_isolated_up(linear, images):
    rest, x, y = images.first(1), *images.batch(slice(4, 7))
    loss = parted(rest, Meter())(linear, x, y, ROWS[:3])
    kept = F.cross_entropy(linear(rest.batch(slice(None))[0]), rest.labels)
    lost = F.cross_entropy(linear(x), y)
    assert loss.item() == pytest.approx((kept - lost).item(), rel=1e-5)


SETTINGS = {"isolating": 10, "isolating_lr": 0.2, "share": 0.05, "batch": 25}


def test_what_is_learnt_first_is_poison(linear, poisoned):
    rows = isolated(ABL(**SETTINGS), linear, poisoned, seed=0, meter=Meter())
    assert len(rows) == 5
    assert (rows % 10 == 0).all()
    assert (rows.diff() > 0).all()


def test_the_weights_that_came_play_no_part_in_it(linear, poisoned):
    other = deepcopy(linear)
    other[1].weight.data.neg_()
    first, second = (
        isolated(ABL(**SETTINGS), model, poisoned, seed=0, meter=Meter())
        for model in (linear, other)
    )
    assert torch.equal(first, second)


def test_the_backdoor_goes_and_what_was_isolated_is_logged(linear, poisoned):
    meter = Meter()
    sick = Supervised(
        linear, poisoned, loss=cross_entropy(meter), lr=0.2, meter=meter, optimize=SGD()
    )
    fit(sick, epochs=20, batch=25, seed=0)
    x, _ = poisoned.without(np.arange(0, 100, 10)).batch(slice(None))
    said = linear(stamped(x)).argmax(dim=1)
    evidence = Evidence(poisoned, poisoned, suspects=poisoned)
    repaired = ABL(epochs=30, lr=0.05, **SETTINGS)(linear, evidence, seed=0)
    after = repaired.classifier(stamped(x)).argmax(dim=1)
    assert (said == 0).double().mean() > 0.9
    assert (after == 0).double().mean() < 0.1
    assert [row["isolated"] for row in repaired.log] == [0, *[5] * 30]


@pytest.mark.parametrize(("share", "count"), [(1e-6, 1), (0.24, 3), (0.999999, 11)])
def test_at_least_one_image_is_isolated_and_one_is_left(linear, images, share, count):
    rows = isolated(ABL(share=share, isolating=1), linear, images, seed=0, meter=Meter())
    assert len(rows) == count


def test_costs_what_the_docstring_says(linear, evidence):
    cost = ABL(isolating=3, share=0.25, epochs=4)(linear, evidence, seed=0).cost
    isolating, unlearning, judged = 3 * 12, 4 * 2 * 3, 12
    assert cost.forward == judged + isolating + 12 + unlearning + 4 * judged
    assert cost.backward == isolating + unlearning
    assert cost.images == 3 * 12 + 4 * 3


@pytest.mark.parametrize("kills", [1, 2, 3, 4, 6])
def test_goes_on_to_the_bit_wherever_it_was_killed(linear, evidence, kills, kept):
    repair, place = ABL(isolating=2, share=0.25, epochs=3, batch=5), kept(kills)
    whole = repair(linear, evidence, seed=0)
    with pytest.raises(KeyboardInterrupt):
        repair(linear, evidence, seed=0, snapshot=place)
    found = repair(linear, evidence, seed=0, snapshot=place)
    assert weights_hash(found.classifier) == weights_hash(whole.classifier)
    assert [{**row, "seconds": 0} for row in found.log] == [
        {**row, "seconds": 0} for row in whole.log
    ]
    assert replace(found.cost, seconds=0) == replace(whole.cost, seconds=0)


def test_batch_norm_of_the_repaired_network_stands_still(network, evidence, digits):
    evidence = Evidence(digits.train.first(20), digits.validation, suspects=digits.train.first(20))
    before = deepcopy(network[1].running_mean)
    repaired = ABL(isolating=1, epochs=1)(network, evidence, seed=0).classifier
    assert torch.equal(repaired[1].running_mean, before)


def test_refuses_to_look_for_poison_in_nothing(linear, images):
    with pytest.raises(ValueError, match=r"evidence\.suspects=None: expected the images"):
        ABL()(linear, Evidence(images, images), seed=0)
    with pytest.raises(ValueError, match="suspects of 1 image: expected at least two"):
        ABL()(linear, Evidence(images, images, suspects=images.first(1)), seed=0)


def test_refuses_a_network_that_cannot_start_again(images):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(20, 3))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    with pytest.raises(ValueError, match="no layer with reset_parameters"):
        ABL()(Fixed(), Evidence(images, images, suspects=images), seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"isolating": 0}, "isolating=0: expected an integer >= 1"),
        ({"share": 1.0}, r"share=1\.0: expected a number in"),
        ({"flood": -1.0}, r"flood=-1\.0: expected a number at least 0"),
        ({"momentum": 2.0}, r"momentum=2\.0: expected a number in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        ABL(**setting)
