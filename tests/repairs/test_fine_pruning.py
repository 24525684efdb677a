"""Fine-pruning: which units go, that they stay away, and that judging them costs no pass."""

import pytest
import torch
from torch import nn

from bezoar.costs import Meter
from bezoar.defence import Evidence, accuracy
from bezoar.features import features
from bezoar.fit import SGD, Supervised, cross_entropy, fit
from bezoar.repairs import FinePruning
from bezoar.repairs.fine_pruning import Held, Tuning, idle


@pytest.fixture
def layer():
    """Three classes by the first three of five units; the fourth is idle, the fifth misleads."""
    made = nn.Linear(5, 3, bias=False)
    made.weight.data = torch.cat([torch.eye(3), torch.tensor([[0.0, 9], [0, 0], [0, 0]])], dim=1)
    return made


H = torch.tensor([[1.0, 0, 0, 0.1, 0], [0, 1, 0, 0.0, 0.01], [0, 0, 1, 0.1, 0.02]])
Y = torch.arange(3)
ORDER = torch.tensor([4, 3, 1, 0, 2])  # by how active they are


def test_units_go_until_the_next_would_cost_too_much(layer):
    assert idle(layer, H, Y, ORDER, 1, floor=1 - 1e-9) == (2, 1.0)
    assert idle(layer, H, Y, ORDER, 1, floor=0.6) == (4, pytest.approx(2 / 3))
    assert idle(layer, H, Y, ORDER, 2, floor=1 - 1e-9) == (2, 1.0)


def test_the_unit_that_comes_next_stops_it_even_where_later_ones_cost_nothing(layer):
    order = torch.tensor([1, 3, 4, 0, 2])
    assert idle(layer, H, Y, order, 1, floor=1 - 1e-9) == (0, 1.0)


@pytest.mark.parametrize("step", [5, 9])
def test_one_step_of_all_units_takes_none(layer, step):
    assert idle(layer, H, Y, ORDER, step, floor=0.0) == (0, 1.0)


def test_without_a_tolerance_no_unit_goes_that_matters(network, evidence):
    x, _ = evidence.validation.batch(slice(None))
    right = network(x).argmax(dim=1) == evidence.validation.labels
    sure = evidence.validation.take(right.nonzero().squeeze(1).numpy())
    repair = FinePruning(tolerance=0, epochs=1, lr=0)
    log = repair(network, Evidence(evidence.train, sure), seed=0).log
    assert [row["clean"] for row in log[:2]] == [1, 1]


def test_the_accuracy_from_kept_features_is_that_of_the_pruned_network(network, evidence):
    repair = FinePruning(tolerance=0.3, epochs=1, lr=0, weight_decay=0)
    repaired = repair(network, evidence, seed=0)
    pruned = int(repaired.log[1]["pruned"])
    assert pruned > 10
    h, _ = features(network, evidence.train.batch(slice(None))[0])
    network[5].weight.data[:, h.mean(dim=0).argsort(stable=True)[:pruned]] = 0
    assert repaired.log[1]["clean"] == accuracy(network, evidence.validation, Meter())
    assert torch.equal(repaired.classifier[5].weight, network[5].weight)


def test_what_went_is_zero_after_every_step_and_all_else_learns(network, evidence):
    repaired = FinePruning(tolerance=0.3, epochs=3, batch=16, lr=0.1)(network, evidence, seed=0)
    gone = (repaired.classifier[5].weight == 0).all(dim=0)
    assert gone.sum() == repaired.log[-1]["pruned"] > 0
    assert (repaired.classifier[5].weight[:, ~gone] != network[5].weight[:, ~gone]).all()
    assert not torch.equal(repaired.classifier[0].weight, network[0].weight)


def test_momentum_that_was_there_does_not_bring_a_unit_back(network, evidence):
    meter, layer = Meter(), network[5]
    learning = Supervised(
        network, evidence.train, loss=cross_entropy(meter), lr=0.1, meter=meter, optimize=SGD()
    )
    fit(learning, epochs=1, batch=16, seed=0)
    held = Held(layer, torch.tensor([3, 70]))
    held.zero()
    fit(Tuning(learning, held), epochs=2, batch=16, seed=0)
    assert (layer.weight[:, [3, 70]] == 0).all()


def test_judging_any_number_of_units_costs_one_pass_an_image(network, evidence):
    cost = FinePruning(share=1e-3, epochs=1, batch=40)(network, evidence, seed=0).cost
    assert cost.forward == 40 + 40 + 5 + 40 + 40
    assert cost.backward == 40


def test_refuses_a_network_that_does_not_end_in_a_linear_layer(evidence):
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ValueError, match="no linear layer: expected logits from one"):
        FinePruning()(model, evidence, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"share": 2.0}, r"share=2\.0: expected a number in \[0, 1\]"),
        ({"tolerance": -0.1}, r"tolerance=-0\.1: expected a number in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        FinePruning(**setting)
