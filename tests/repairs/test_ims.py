"""IMS: the two gates, agreement and its opposite, and what is written into the network."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bezoar.channels import layers
from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.defence import Evidence
from bezoar.models import create
from bezoar.repairs import IMS
from bezoar.repairs.ims import Gates, Search, agree, differ
from bezoar.seeds import generator

QUICK = IMS(first=3, second=3, batch=20, steps=2)


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=generator(0, "tests", "ims"))


@pytest.fixture
def residual():
    model = create("preact-resnet", shape=(1, 8, 8), classes=4, seed=0, width=4, blocks=[1] * 4)
    return model.eval()


@pytest.fixture
def gates(residual, x):
    return Gates(residual, layers(residual, x[:1]), 20.0)


def drawn(gates):
    """Gates somewhere in [0, 1]."""
    rng = generator(0, "tests", "gates")
    values = {
        name: [torch.rand(gate.shape, generator=rng) for gate in part]
        for name, part in gates.values().items()
    }
    gates.set(values)
    return values


def test_at_the_start_m_is_the_network_and_i_says_the_same_of_all_images(gates, residual, x):
    torch.testing.assert_close(gates(x), residual(x), atol=1e-3, rtol=1e-3)
    said = gates.gated(gates.gains(inverse=True))(x)
    torch.testing.assert_close(said, said[:1].expand_as(said), atol=1e-3, rtol=1e-3)


def test_gates_that_say_both_leave_all_three_networks_the_same(gates, residual, x):
    values = gates.values()
    gates.set({**values, "both": [torch.ones_like(gate) for gate in values["both"]]})
    expected = residual(x)
    assert torch.equal(gates(x), expected)
    assert torch.equal(gates.gated(gates.gains(inverse=True))(x), expected)


def test_the_gates_are_those_of_the_equation_and_inverse_to_each_other(gates):
    values = drawn(gates)
    for k, (one, other) in enumerate(zip(gates.gains(), gates.gains(inverse=True), strict=True)):
        m, s = values["side"][k], values["both"][k]
        z, opposite = torch.sigmoid(20 * (m - 0.5)), torch.sigmoid(20 * (1 - m - 0.5))
        torch.testing.assert_close(one, z + s * (1 - z))
        torch.testing.assert_close(other, opposite + s * (1 - opposite))
        torch.testing.assert_close(one + other, 1 + s)


def test_agreement_and_its_opposite_are_those_of_two_draws():
    rng = generator(0, "tests", "answers")
    p, q = torch.randn(2, 6, 4, generator=rng, dtype=torch.float64).log_softmax(dim=2)
    same = (p.exp() * q.exp()).sum(dim=1)
    torch.testing.assert_close(agree(p, q), -same.log().mean())
    torch.testing.assert_close(differ(p, q), -(1 - same).log().mean())


def test_two_that_are_sure_and_agree_are_still_told_how_to_differ():
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    loss = differ(logits.log_softmax(dim=1), logits.detach().log_softmax(dim=1))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad[0, 0].item() == pytest.approx(0.5, rel=1e-3)


def test_what_is_written_is_the_gated_network(gates, x):
    drawn(gates)
    other = create("preact-resnet", shape=(1, 8, 8), classes=4, seed=0, width=4, blocks=[1] * 4)
    gates.write(other.eval())
    torch.testing.assert_close(other(x), gates(x))


def test_gates_learn_and_the_network_does_not(network, evidence):
    gates = Gates(network, layers(network, evidence.train.batch(slice(1))[0]), 20.0)
    before = weights_hash(network)
    search = Search(QUICK, gates, evidence.train, Meter(), True, 10.0)
    search.step(torch.arange(20), 0.0)
    assert weights_hash(network) == before
    assert any((gate > 0).any() for gate in gates.both)
    assert all(0 <= gate.min() <= gate.max() <= 1 for gate in [*gates.side, *gates.both])


def test_labels_have_no_part_in_it(network, evidence):
    shuffled = replace(evidence.train, labels=evidence.train.labels.flip(0))
    first, second = (
        QUICK(network, Evidence(train, evidence.validation), seed=0).classifier
        for train in (evidence.train, shuffled)
    )
    assert weights_hash(first) == weights_hash(second)


@pytest.mark.parametrize("steps", [1, 4])
def test_costs_what_the_docstring_says(network, evidence, steps):
    cost = replace(QUICK, first=2, second=2, steps=steps)(network, evidence, seed=0).cost
    assert cost.images == 3 * 40
    assert cost.backward == 40 * 2 + 80 * (2 * steps + 4)
    assert cost.forward == 40 * 3 + 80 * (2 * steps + 6) + 5 * 40 + 1


def test_a_part_is_done_where_the_loss_gets_no_better(network, evidence):
    still = replace(QUICK, first=40, second=1, lr=0.0, patience=6)
    log = still(network, evidence, seed=0).log
    assert [row["part"] for row in log].count(1) == 1 + 4  # one epoch to compare with, three more


def test_a_state_in_the_middle_of_an_epoch_goes_on(network, evidence):
    found = layers(network, evidence.train.batch(slice(1))[0])
    first, second = (
        Search(QUICK, Gates(network, found, 20.0), evidence.train, Meter(), False, 10.0)
        for _ in range(2)
    )
    first.begin(0)
    first.step(torch.arange(20), 0.0)
    second.load_state_dict(first.state_dict())
    for search in (first, second):
        search.step(torch.arange(20, 40), 0.5)
        search.note(1)
    assert first.state_dict()["best"] == second.state_dict()["best"]


def test_refuses_a_network_without_convolutions(evidence):
    with pytest.raises(ValueError, match="without a convolution"):
        QUICK(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), evidence, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"first": 0}, "first=0: expected an integer >= 1"),
        ({"sparsity": -1.0}, r"sparsity=-1\.0: expected a number at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        IMS(**setting)
