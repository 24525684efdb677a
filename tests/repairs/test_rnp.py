"""RNP: the ascent and its clipping, and what is left alone of the original."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.fit import SGD, Supervised, clipped
from bezoar.repairs import RNP
from bezoar.repairs.rnp import scaled_loss

QUICK = {"unlearn_lr": 0.1, "recover_epochs": 2, "alpha": 1, "batch": 16}


@pytest.mark.parametrize("clip", [1e-3, 0.1])
def test_a_step_of_the_ascent_is_as_long_as_the_clip_says(network, evidence, clip):
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    learning = Supervised(
        network,
        evidence.train,
        loss=scaled_loss(-1.0, Meter()),
        lr=0.5,
        meter=Meter(),
        optimize=clipped(SGD(momentum=0.9, weight_decay=0), clip),
    )
    learning.step(torch.arange(40), 0.0)
    after = nn.utils.parameters_to_vector(network.parameters())
    assert (after - before).norm().item() == pytest.approx(0.5 * clip, rel=1e-2)


def test_a_gradient_within_the_clip_is_left_as_it_is(network, evidence):
    made = []
    for optimize in (SGD(), clipped(SGD(), 1e6)):
        model, loss = deepcopy(network), scaled_loss(1.0, Meter())
        settings = {"loss": loss, "lr": 0.1, "meter": Meter(), "optimize": optimize}
        torch.manual_seed(0)
        Supervised(model, evidence.train, **settings).step(torch.arange(40), 0.0)
        made.append(weights_hash(model))
    assert made[0] == made[1]


def test_the_copy_unlearns_until_it_names_few_images(network, evidence):
    repaired = RNP(unlearn_epochs=50, **QUICK)(network, evidence, seed=0)
    ascent = [row["train"] for row in repaired.log if "train" in row]
    assert ascent[0] > 0.9
    assert ascent[-1] <= 0.2 < min(ascent[:-1])
    assert len(ascent) < 51


@pytest.mark.parametrize("seed", [0, 1])
def test_only_scales_of_the_original_change_and_those_to_zero(network, evidence, seed):
    repair = RNP(unlearn_epochs=2, tolerance=0.95, **QUICK)
    after = repair(network, evidence, seed=seed).classifier.state_dict()
    before = network.state_dict()
    scale, old = after.pop("1.weight"), before.pop("1.weight")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert ((scale == 0) | (scale == old)).all()
    assert (scale == 0).any()


def test_the_threshold_stays_where_the_next_would_cost_too_much(network, evidence):
    found = [
        RNP(unlearn_epochs=2, tolerance=tolerance, **QUICK)(network, evidence, seed=0).log[-1]
        for tolerance in (0.0, 0.3, 1.0)
    ]
    columns = [[row[name] for row in found] for name in ("threshold", "pruned", "clean")]
    assert columns[0] == sorted(columns[0])
    assert columns[1] == sorted(columns[1])
    assert columns[2] == sorted(columns[2], reverse=True)
    assert found[0]["pruned"] < found[-1]["pruned"]


def test_refuses_a_network_without_channels(linear, evidence):
    with pytest.raises(ValueError, match="without a batch norm or a convolution"):
        RNP()(linear, evidence, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"least": 1.5}, r"least=1\.5: expected a number in \[0, 1\]"),
        ({"clip": -1.0}, r"clip=-1\.0: expected a number at least 0"),
        ({"recover_epochs": 0}, "recover_epochs=0: expected an integer >= 1"),
        ({"statistics": "runing"}, "statistics 'runing': expected one of batch, running"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        RNP(**setting)
