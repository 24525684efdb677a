"""Masks on channels: what they multiply, and what is pruned by them."""

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.models import create
from bezoar.repairs.masks import Change, Masked, prune, scales, trials
from bezoar.seeds import generator


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=generator(0, "tests", "masks"))


@pytest.fixture
def residual():
    return create("preact-resnet", shape=(1, 8, 8), classes=4, seed=0, width=4, blocks=[1] * 4)


def test_all_batch_norms_are_masked_also_those_that_normalise_a_sum(residual):
    names = list(scales(residual))
    assert len(names) == 9
    assert {"stages.1.norm1", "norm"} <= set(names)


def test_without_batch_norms_convolutions_are(small_convnet):
    assert list(scales(small_convnet)) == ["0"]


def test_a_network_with_neither_is_refused(linear):
    with pytest.raises(ValueError, match=r"Sequential without a batch norm or a conv.*: expected"):
        scales(linear)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_masks_of_one_and_no_change_are_the_network(residual, x, statistics):
    expected = residual.eval()(x)
    masked = Masked(residual, statistics).eval()
    none = [Change(torch.zeros_like(mask), torch.zeros_like(mask)) for mask in masked.masks]
    assert torch.equal(masked(x), expected)
    assert torch.equal(masked(x, none), expected)


def test_scale_and_shift_are_changed_each_by_its_own(x):
    conv = nn.Conv2d(1, 2, 1)
    conv.weight.data, conv.bias.data = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1), torch.ones(2)
    masked = Masked(nn.Sequential(conv), "running")
    masked.masks[0].data = torch.tensor([0.5, 0.0])
    change = Change(torch.tensor([0.25, 0.0]), torch.tensor([-1.0, 1.0]))
    expected = torch.cat([0.75 * 2 * x, 2 * torch.ones_like(x)], dim=1)
    torch.testing.assert_close(masked(x, [change]), expected)


def test_only_masks_learn_and_running_statistics_stand_still(residual, x):
    masked = Masked(residual, "running").train()
    before = weights_hash(residual)
    masked(x).sum().backward()
    assert weights_hash(residual) == before
    assert all(parameter.grad is None for parameter in residual.parameters())
    assert all(mask.grad is not None for mask in masked.masks)


def test_batch_statistics_are_used_where_they_are_asked_for(residual, x):
    masked = Masked(residual, "batch").train()
    assert residual.norm.training
    masked(x)
    assert residual.norm.num_batches_tracked == 1
    masked.eval()
    assert not residual.norm.training


def test_a_threshold_below_zero_prunes_nothing(residual):
    before = weights_hash(residual)
    masks = [torch.zeros(len(owner.weight)) for owner in scales(residual).values()]
    assert prune(residual, masks, -0.01) == 0
    assert weights_hash(residual) == before


def test_nothing_but_the_scales_of_the_pruned_changes(residual):
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    masks = [torch.ones(len(owner.weight)) for owner in scales(residual).values()]
    masks[1][2] = 0.3
    assert prune(residual, masks, 0.3) == 1
    after = residual.state_dict()
    name = f"{list(scales(residual))[1]}.weight"
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == [name]
    assert after[name].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_a_copy_is_judged_only_where_other_channels_go(residual, x, order):
    images = ImageSet(x, torch.arange(5) % 4, np.arange(5), tuple("abcd"), "five")
    masks = [torch.ones(len(owner.weight)) for owner in scales(residual).values()]
    masks[0][:2] = torch.tensor([0.25, 0.55])
    meter, thresholds = Meter(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7][::order]
    found = list(trials(residual, masks, thresholds, 0.5, images, meter))
    assert [trial.threshold for trial in found] == thresholds
    assert [trial.pruned for trial in found] == [0, 0, 1, 1, 1, 2, 2][::order]
    assert meter.forward == (2 if order > 0 else 3) * len(images)
