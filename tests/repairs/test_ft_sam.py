"""FT-SAM: plain fine-tuning at radius zero, and otherwise the gradient of moved weights."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.repairs import FTSAM, FineTune
from bezoar.repairs.ft_sam import nearby, steepest
from bezoar.seeds import generator

SHORT = {"epochs": 3, "batch": 16, "lr": 0.05}


def test_without_a_radius_it_is_fine_tuning_step_for_step(network, evidence):
    found = FTSAM(rho=0, smoothing=0, **SHORT)(network, evidence, seed=3)
    plain = FineTune(**SHORT)(network, evidence, seed=3)
    assert weights_hash(found.classifier) == weights_hash(plain.classifier)
    assert [row["clean"] for row in found.log] == [row["clean"] for row in plain.log]
    assert found.cost.passes == 2 * plain.cost.passes - 4 * 40  # validation is seen once


def test_the_change_has_the_asked_norm_measured_by_the_weights():
    rng = generator(0, "tests", "sam")
    weights, slopes = (
        [torch.randn(3, 4, generator=rng), torch.randn(5, generator=rng)] for _ in "ab"
    )
    changes = steepest(weights, slopes, rho=2.0)
    sizes = torch.cat([(e / w.abs()).flatten() for w, e in zip(weights, changes, strict=True)])
    assert sizes.norm().item() == pytest.approx(2.0, rel=1e-5)


def test_the_change_of_one_weight_is_rho_times_its_size():
    (change,) = steepest([torch.tensor([-3.0])], [torch.tensor([-0.1])], rho=0.5)
    assert change.item() == pytest.approx(-1.5)


def test_the_gradient_is_that_at_the_moved_weights(linear, batch):
    x, y = batch
    weights = list(linear.parameters())
    smooth = torch.autograd.grad(F.cross_entropy(linear(x), y, label_smoothing=0.1), weights)
    moved = deepcopy(linear)
    with torch.no_grad():
        for weight, change in zip(moved.parameters(), steepest(weights, smooth, 2.0), strict=True):
            weight += change
    value = nearby(2.0, 0.1, Meter())(linear, x, y, torch.arange(12))
    expected = F.cross_entropy(moved(x), y, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)
    found = torch.autograd.grad(value, weights)
    torch.testing.assert_close(found, torch.autograd.grad(expected, list(moved.parameters())))


def test_batch_norms_see_a_batch_once(network, evidence):
    x, y = evidence.train.batch(slice(16))
    once = deepcopy(network).train()
    once(x)
    network.train()
    nearby(2.0, 0.1, Meter())(network, x, y, torch.arange(16)).backward()
    assert torch.equal(network[1].running_mean, once[1].running_mean)
    assert torch.equal(network[1].running_var, once[1].running_var)
    assert network[1].num_batches_tracked == once[1].num_batches_tracked


def test_frozen_weights_stay(network, evidence):
    network[0].requires_grad_(False)
    repaired = FTSAM(**SHORT)(network, evidence, seed=0).classifier
    assert torch.equal(repaired[0].weight, network[0].weight)
    assert not torch.equal(repaired[5].weight, network[5].weight)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rho": -1.0}, r"rho=-1\.0: expected a number at least 0"),
        ({"smoothing": 2.0}, r"smoothing=2\.0: expected a number in \[0, 1\]"),
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        FTSAM(**setting)
