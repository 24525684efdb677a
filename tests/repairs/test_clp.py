"""CLP: the constants in closed form, and what goes with a planted channel."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.channels import layers
from bezoar.classifier import weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.lipschitz import constants, deviations
from bezoar.repairs import CLP
from bezoar.seeds import generator

LOUD = 3  # the planted channel


@pytest.fixture
def evidence(batch):
    x, y = batch
    images = ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve")
    return Evidence(images, images)


@pytest.fixture
def sick():
    """Sixteen channels with a norm, sixteen without; of each one filter is ten times as large."""
    first, norm, second = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 2)
    rng = generator(0, "tests", "clp")
    with torch.no_grad():
        for conv in (first, second):
            filters = torch.randn(16, conv.in_channels, *conv.kernel_size, generator=rng)
            conv.weight.copy_(filters / filters.flatten(1).norm(dim=1)[:, None, None, None])
            conv.weight[LOUD] *= 10
    parts = (first, norm, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    return nn.Sequential(*parts).eval()


def test_the_constants_are_singular_values_times_the_gain_of_the_norm(sick, batch):
    first, second = layers(sick, batch[0][:1])
    with torch.no_grad():
        first.norm.weight.copy_(torch.linspace(-2, 2, 16))
        first.norm.running_var.copy_(torch.linspace(0.1, 4, 16))
    sigma = torch.linalg.svdvals(first.conv.weight.double().flatten(2))[:, 0]
    gain = torch.linspace(2, -2, 16).abs() / (torch.linspace(0.1, 4, 16) + 1e-5).sqrt()
    torch.testing.assert_close(constants(first), sigma * gain.double())
    alone = torch.linalg.svdvals(second.conv.weight.double().flatten(2))[:, 0]
    torch.testing.assert_close(constants(second), alone)


@pytest.mark.parametrize("c", [1e-3, 0.5, 40.0])
def test_the_constants_do_not_depend_on_the_scale_that_a_norm_takes_out(sick, batch, c):
    layer = layers(sick, batch[0][:1])[0]
    layer.norm.eps = 0.0
    before = constants(layer)
    with torch.no_grad():
        layer.conv.weight.mul_(c)
        layer.norm.running_var.mul_(c**2)
    torch.testing.assert_close(constants(layer), before)


def test_deviations_are_those_of_the_layer():
    found = deviations(torch.tensor([1.0, 1.0, 1.0, 5.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([-(3**-0.5)] * 3 + [3**0.5])


def test_a_planted_channel_goes_and_nothing_else(sick, evidence, batch):
    repaired = CLP()(sick, evidence, seed=0)
    network, before = repaired.classifier, deepcopy(sick).state_dict()
    maps = network[:2](batch[0])
    assert (maps[:, LOUD] == 0).all()
    assert (network[:4](batch[0])[:, LOUD] == 0).all()
    others = [k for k in range(16) if k != LOUD]
    for name, tensor in network.state_dict().items():
        same = others if tensor.ndim and len(tensor) == 16 else ...
        assert torch.equal(tensor[same], before[name][same])
    assert [row["pruned"] for row in repaired.log] == [0, 2]


def test_deviations_that_a_layer_cannot_have_prune_nothing(sick, evidence):
    repaired = CLP(u=15**0.5 + 1e-6)(sick, evidence, seed=0)
    assert weights_hash(repaired.classifier) == weights_hash(sick)


def test_more_goes_where_less_is_borne(sick, evidence):
    gone = [CLP(u=u)(sick, evidence, seed=0).log[-1]["pruned"] for u in (0.0, 0.1, 3.0)]
    assert gone == sorted(gone, reverse=True)


def test_images_have_no_part_in_it(sick, evidence):
    black = ImageSet(torch.zeros(2, 1, 4, 5), torch.zeros(2).long(), np.arange(2), ("a",), "black")
    first, second = (
        CLP()(sick, known, seed=0).classifier for known in (evidence, Evidence(black, black))
    )
    assert weights_hash(first) == weights_hash(second)


def test_refuses_a_network_without_convolutions(linear, evidence):
    with pytest.raises(ValueError, match="without a convolution"):
        CLP()(linear, evidence, seed=0)


def test_refuses_a_negative_threshold():
    with pytest.raises(ValueError, match=r"u=-1: expected a number at least 0"):
        CLP(u=-1)
