"""I-BAU: the implicit gradient against finite differences, and the search on a linear network."""

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
from bezoar.repairs import IBAU
from bezoar.repairs.i_bau import Unlearning, implicit
from bezoar.seeds import generator

WEIGHT = 0.5  # so much that the inner problem has one answer
STEP = 0.5


@pytest.fixture
def images(batch):
    x, y = batch
    return ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve")


@pytest.fixture
def evidence(images):
    return Evidence(images, images)


@pytest.fixture
def smooth():
    """A network without a kink, in double precision, and all of its weights in one vector."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    rng = generator(0, "tests", "smooth")
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.copy_(drawn / parameter.shape[-1] ** 0.5)
    return model, nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def inner(model, change, x, y):
    return WEIGHT * change.square().sum() - F.cross_entropy(model(x + change), y)


def answer(model, x, y):
    """Where the inner problem is least, to all digits."""
    change = torch.zeros(1, *x.shape[1:], dtype=x.dtype)
    for _ in range(80):
        change.requires_grad_()
        (slope,) = torch.autograd.grad(inner(model, change, x, y), change)
        change = (change - STEP * slope).detach()
    assert slope.abs().max() < 1e-13
    return change


def test_the_gradient_is_that_of_the_loss_at_the_answer_of_the_perturbation(smooth, batch):
    model, theta = smooth
    x, y = batch[0].double(), batch[1]
    outside, inside = (x[:6], y[:6]), (x[6:], y[6:])

    def loss(weights):
        nn.utils.vector_to_parameters(weights, model.parameters())
        change = answer(model, *inside)
        return F.cross_entropy(model(outside[0] + change), outside[1]).item()

    direction = torch.randn(theta.shape, generator=generator(0, "way"), dtype=torch.float64)
    step = 1e-5
    slope = (loss(theta + step * direction) - loss(theta - step * direction)) / (2 * step)

    nn.utils.vector_to_parameters(theta, model.parameters())
    change = answer(model, *inside).requires_grad_()
    outer = F.cross_entropy(model(outside[0] + change), outside[1])
    plain = torch.autograd.grad(outer, list(model.parameters()), retain_graph=True)
    value = implicit(outer, inner(model, change, *inside), change, steps=80, step_size=STEP)
    found = torch.autograd.grad(value, list(model.parameters()))
    along, without = (
        float(nn.utils.parameters_to_vector(part) @ direction) for part in (found, plain)
    )
    assert along == pytest.approx(slope, rel=1e-6)
    assert abs(without - slope) > 1e-2 * abs(slope)  # the answer matters here
    assert value.item() == pytest.approx(outer.item())


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_each_term_of_the_series_comes_nearer(steps):
    # h = a/2 (d - theta)^2 is least at theta, where H = d^2 has the slope 2 theta.
    theta = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    point = theta.detach().clone().requires_grad_()
    least = 2.0 * (point - theta).square().sum()  # a = 4
    value = implicit(point.square().sum(), least, point, steps=steps, step_size=0.1)
    (slope,) = torch.autograd.grad(value, theta)
    assert slope.item() == pytest.approx(6 * (1 - 0.6**steps))


def test_the_search_leads_away_from_what_the_network_says(linear, images):
    # One step from 0 in one batch: the gradient of the loss at x is W^T (p - e).
    trainable = Unlearning(IBAU(epochs=1, batch=12, search_lr=2.0), linear, images, 0)
    x, _ = images.batch(slice(None))
    logits = linear(x).detach()
    away = logits.softmax(dim=1) - F.one_hot(logits.argmax(dim=1), 3)
    expected = 2 * (away @ linear[1].weight.detach()).mean(dim=0)
    assert trainable.begin(0) == 12
    found = trainable.state_dict()["change"]
    torch.testing.assert_close(found.flatten(), expected)


def test_a_round_searches_once_and_a_new_one_afresh(linear, images):
    trainable = Unlearning(IBAU(epochs=2, batch=12), linear, images, 0)
    changes = []
    for epoch in range(4):
        trainable.begin(epoch)
        changes.append(trainable.state_dict()["change"])
    assert changes[0] is changes[1]
    assert changes[2] is changes[3]
    torch.testing.assert_close(changes[0], changes[2])  # of the same weights


@pytest.mark.parametrize(("share", "touched"), [(1e-6, 1), (0.25, 3), (1.0, 12)])
def test_so_many_images_of_a_batch_are_perturbed(linear, images, share, touched):
    trainable = Unlearning(IBAU(share=share, batch=12, epochs=1), linear, images, 0)
    trainable.begin(0)
    seen = []
    linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    torch.manual_seed(0)
    trainable.step(torch.arange(12), 0.0)
    x, _ = images.batch(slice(None))
    assert int((seen[0] != x).flatten(1).any(dim=1).sum()) == touched


def test_without_a_perturbation_and_its_answer_it_is_plain_training(linear, images, evidence):
    repair = IBAU(rounds=3, epochs=2, batch=4, lr=1e-2, search_lr=0, step_size=0)
    repaired = repair(linear, evidence, seed=3)
    meter, plain = Meter(), deepcopy(linear)
    learning = Supervised(plain, images, loss=cross_entropy(meter), lr=1e-2, meter=meter)
    fit(learning, epochs=6, batch=4, seed=3)
    assert weights_hash(repaired.classifier) == weights_hash(plain)
    assert [row["round"] for row in repaired.log] == [0, 1, 2, 3]


def test_costs_what_the_docstring_says(linear, evidence):
    cost = IBAU(rounds=2, epochs=3, batch=6, steps=4)(linear, evidence, seed=0).cost
    search, descent, fixed, judged = 12 + 3 * 12, 3 * 12, 3 * 2 * 6, 12
    assert cost.forward == 2 * (search + descent + fixed + judged) + judged
    assert cost.backward == 2 * (3 * 12 + 2 * descent + 5 * fixed)


def test_batch_norm_and_dropout_stand_still(network, digits):
    evidence = Evidence(digits.train.first(20), digits.validation.first(20))
    before = deepcopy(network[1].running_mean)
    repaired = IBAU(rounds=1, epochs=1)(network, evidence, seed=0).classifier
    assert torch.equal(repaired[1].running_mean, before)
    assert not torch.equal(repaired[1].weight, network[1].weight)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rounds": 0}, "rounds=0: expected an integer >= 1"),
        ({"steps": 0}, "steps=0: expected an integer >= 1"),
        ({"share": 0.0}, r"share=0\.0: expected a number in"),
        ({"weight": -1.0}, r"weight=-1\.0: expected a number at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        IBAU(**setting)
