"""SAU, in closed form: the twins of a linear network can be written down."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.fit import Supervised, cross_entropy, fit
from bezoar.repairs import SAU
from bezoar.repairs.sau import amsgrad, divergence, shared, unsaid


@pytest.fixture
def images(batch):
    x, y = batch
    return ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve")


@pytest.fixture
def evidence(images):
    return Evidence(images, images)


@pytest.fixture
def bright():
    """Says 1 of images with a mean above 0.5 by far, else 0, and 2 of none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-1.0, 1.0, 0.0])[:, None].expand(3, 20))
        model[1].bias.copy_(torch.tensor([10.0, -10.0, -9.0]))
    return model.eval()


DARK = torch.linspace(0.40, 0.45, 6)[:, None, None, None].expand(6, 1, 4, 5).contiguous()


@pytest.mark.parametrize("stubborn", [False, True])
def test_where_the_original_is_never_fooled_it_is_plain_training(
    linear, images, evidence, stubborn
):
    if stubborn:
        linear[1].bias.data += torch.tensor([20.0, 0.0, 0.0])  # class 0, whatever it sees
    repair = SAU(epochs=4, batch=5, lr=1e-2, eps=0.2 if stubborn else 0.0)
    repaired = repair(linear, evidence, seed=3).classifier
    meter, plain = Meter(), deepcopy(linear)
    learning = Supervised(
        plain, images, loss=cross_entropy(meter), lr=1e-2, meter=meter, optimize=amsgrad
    )
    fit(learning, epochs=4, batch=5, seed=3)
    assert weights_hash(repaired) == weights_hash(plain) != weights_hash(linear)


def test_the_search_climbs_the_loss_of_both_while_neither_is_fooled(linear, batch):
    # Both are one network: no divergence. From +eps against the sign of -W^T (p - e_y).
    x, y = batch
    linear[1].bias.data += torch.tensor([20.0, 0.0, 0.0])
    repair = SAU(eps=0.3, steps=1, step_size=0.4)
    p = linear(x + 0.3).softmax(dim=1).detach()
    slope = (p - F.one_hot(y, 3)) @ linear[1].weight.detach()
    expected = (0.3 + 0.4 * slope.sign().reshape(x.shape)).clamp(-0.3, 0.3)
    twins, said = shared(repair, linear, deepcopy(linear), x, y, Meter())
    torch.testing.assert_close(twins - x, expected)
    assert (said == -1).all()


def test_a_twin_that_fools_both_alike_stays_and_costs_no_more(bright):
    meter, y = Meter(), torch.zeros(6, dtype=torch.int64)
    twins, said = shared(SAU(eps=0.2), bright, deepcopy(bright), DARK, y, meter)
    torch.testing.assert_close(twins, DARK + 0.2)
    assert (said == 1).all()
    assert (meter.forward, meter.backward) == (5 * 6, 0)


def test_a_twin_that_fools_them_to_different_classes_goes_where_they_agree_more(bright):
    other, x, y = deepcopy(bright), DARK[:4], torch.zeros(4, dtype=torch.int64)
    other[1].weight.data[2] = 1.2
    assert (bright(x + 0.2).argmax(dim=1) == 1).all()
    assert (other(x + 0.2).argmax(dim=1) == 2).all()
    repair = SAU(eps=0.2, steps=1, step_size=0.05)
    twins, _ = shared(repair, bright, other, x, y, Meter())
    now, before = (divergence(bright(part), other(part)) for part in (twins, x + 0.2))
    assert (now < before).all()


@pytest.mark.parametrize(("label", "counts"), [(0, True), (1, False), (2, True)])
def test_the_loss_counts_a_twin_that_fools_the_original_away_from_the_truth(bright, label, counts):
    y = torch.full((6,), label)
    images = ImageSet(DARK, y, np.arange(6), ("a", "b", "c"), "dark")
    log = SAU(epochs=1, batch=6)(bright, Evidence(images, images), seed=0).log
    clean = F.cross_entropy(bright(DARK), y).item()
    away = -torch.log1p(-bright(DARK + 0.2).double().softmax(dim=1)[:, 1]).mean()
    assert log[1]["loss"] == pytest.approx(clean + counts * away.item(), rel=1e-3)


def test_divergence_is_zero_of_equals_and_log_two_of_strangers():
    first = torch.tensor([[3.0, 0.0], [50.0, 0.0]])
    second = torch.tensor([[5.0, 2.0], [0.0, 50.0]])
    expected = torch.tensor([0.0, math.log(2)])
    torch.testing.assert_close(divergence(first, second), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(divergence(second, first), expected, atol=1e-6, rtol=0)


def test_unsaid_is_the_logarithm_of_what_is_left_also_where_nothing_is():
    logits = torch.tensor([[0.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    left = unsaid(logits, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(left, torch.tensor([-math.log(2 / 3), 40 - math.log(2)]))


def test_batch_norm_and_dropout_stand_still(network, digits):
    evidence = Evidence(digits.train.first(20), digits.validation.first(20))
    before = deepcopy(network[1].running_mean)
    repaired = SAU(epochs=1)(network, evidence, seed=0).classifier
    assert torch.equal(repaired[1].running_mean, before)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
        ({"eps": 1.5}, r"eps=1\.5: expected a number in \[0, 1\]"),
        ({"adversarial": -1.0}, r"adversarial=-1\.0: expected a number at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SAU(**setting)
