import math

import pytest
import torch
from torch import nn

from bezoar.channels import layers
from bezoar.scans import ChannelLipschitz
from bezoar.scans.channel_lipschitz import constants
from bezoar.seeds import generator


@pytest.fixture
def network():
    """A convolution of 11 channels with its batch norm, and one without, for 2x6x6 images."""
    head = (nn.Flatten(), nn.Linear(88, 3))
    model = nn.Sequential(
        nn.Conv2d(2, 11, 3), nn.BatchNorm2d(11), nn.ReLU(), nn.Conv2d(11, 22, 3), *head
    )
    rng = generator(0, "tests", "clp")
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.1)
    return model.eval()


@pytest.fixture
def images(toy):
    return toy(torch.rand(3, 2, 6, 6), 3)


def found(network):
    return [constants(layer) for layer in layers(network, torch.zeros(1, 2, 6, 6))]


def equal(network):
    """Make all channels of a layer alike."""
    with torch.no_grad():
        for module in (network[0], network[1], network[3]):
            module.weight.copy_(module.weight[:1].expand_as(module.weight))
        network[1].running_var.fill_(1)


def test_a_filter_of_rank_one_in_closed_form(network):
    with torch.no_grad():
        network[0].weight[4] = torch.tensor([3.0, -4.0])[:, None, None] * torch.full((3, 3), 2.0)
        network[1].weight[4], network[1].running_var[4] = -0.5, 0.25 - network[1].eps
    assert found(network)[0][4].item() == pytest.approx(5 * 6 * 0.5 / 0.5, rel=1e-6)


def test_largest_singular_values_times_what_the_norm_multiplies_by(network):
    first, second = found(network)
    scale = network[1].weight / (network[1].running_var + network[1].eps).sqrt()
    norms = [torch.linalg.matrix_norm(network[k].weight.flatten(2), ord=2) for k in (0, 3)]
    torch.testing.assert_close(first.float(), norms[0] * scale)
    torch.testing.assert_close(second.float(), norms[1])  # nothing reads it but the flattening


def test_a_scaled_convolution_with_its_variance_scaled_too_has_the_same_constants(network):
    network[1].eps = 0.0
    before = found(network)
    with torch.no_grad():
        network[0].weight *= 7
        network[1].running_var *= 49
    torch.testing.assert_close(found(network), before)


@pytest.mark.parametrize("factor", [5.0, 100.0])
def test_one_channel_above_ten_equal_ones_in_closed_form(factor, network, images):
    equal(network)
    with torch.no_grad():
        network[0].weight[6] *= factor
    finding = ChannelLipschitz()(network, images, seed=0)
    assert finding.score == pytest.approx(math.sqrt(10))
    assert finding.accused
    assert finding.suspect is finding.classes is finding.p_value is None


def test_channels_that_are_alike_are_not_suspicious(network, images):
    equal(network)
    finding = ChannelLipschitz()(network, images, seed=0)
    assert finding.score == pytest.approx(0, abs=1e-3)
    assert not finding.accused


def test_it_is_the_batch_norm_as_well_that_may_amplify(network, images):
    equal(network)
    with torch.no_grad():
        network[1].running_var[2] = 0.01
    assert ChannelLipschitz()(network, images, seed=0).score == pytest.approx(math.sqrt(10))


def test_two_classes_are_enough_for_it(images, toy):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 2)).eval()
    assert ChannelLipschitz()(model, toy(torch.rand(2, 2, 6, 6), 2), seed=0).score >= 0


def test_costs_two_passes(network, images):
    cost = ChannelLipschitz()(network, images, seed=0).cost
    assert (cost.forward, cost.backward) == (2, 0)


def test_refuses_a_network_without_convolutions(linear, toy):
    with pytest.raises(ValueError, match="expected a convolutional network"):
        ChannelLipschitz()(linear, toy(torch.rand(3, 1, 4, 5), 3), seed=0)


def test_refuses_a_threshold_below_zero():
    with pytest.raises(ValueError, match="threshold=-1: expected a number at least 0"):
        ChannelLipschitz(threshold=-1)
