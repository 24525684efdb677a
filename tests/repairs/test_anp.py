"""ANP: learning masks without a disturbance, the disturbance, and which channels go."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.repairs import ANP
from bezoar.repairs.anp import disturbed
from bezoar.repairs.masks import Change, Masked, Masking
from bezoar.seeds import generator


@pytest.fixture
def evidence():
    """Dark images of class 0 and bright ones of class 1, eight of each."""
    shade = torch.tensor([0.2, 0.8]).repeat(8)
    noise = torch.rand(16, 1, 4, 4, generator=generator(0, "tests", "shades"))
    x = shade[:, None, None, None] + 0.1 * (noise - 0.5)
    images = ImageSet(x, torch.arange(16) % 2, np.arange(16), ("dark", "bright"), "shades")
    return Evidence(images, images)


@pytest.fixture
def planted():
    """Channel 0 tells the classes apart; channel 1 speaks for class 0, whatever the image."""
    conv, norm, linear = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)
    pool = nn.AdaptiveAvgPool2d(1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
        conv.bias.copy_(torch.tensor([-0.5, 1.0]))
        norm.weight.copy_(torch.tensor([1.0, 1.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.1]))
        linear.weight.copy_(torch.tensor([[-10.0, 2.0], [10.0, 0.0]]))
        linear.bias.zero_()
    return nn.Sequential(conv, norm, pool, nn.Flatten(), linear).eval()


def learnt(model, images, loss, *, lr=0.5):
    """Masks after one step of plain descent on all images."""
    masked = Masked(deepcopy(model), "running")
    Masking(masked, images, loss=loss, lr=lr, momentum=0, meter=Meter()).step(
        torch.arange(len(images)), 0.0
    )
    return masked.masks[0].detach()


@pytest.mark.parametrize(("eps", "alpha"), [(0.0, 0.2), (0.4, 1.0), (0.0, 1.0)])
def test_without_a_disturbance_masks_learn_by_the_gradient_alone(planted, evidence, eps, alpha):
    x, y = evidence.train.batch(slice(None))
    scale = planted[1].weight.detach().clone().requires_grad_()
    shown = F.batch_norm(
        planted[0](x), planted[1].running_mean, planted[1].running_var, scale, planted[1].bias
    )
    (slope,) = torch.autograd.grad(F.cross_entropy(planted[2:](shown), y), scale)
    expected = (1 - 0.5 * slope * planted[1].weight).clamp(0, 1).detach()
    found = learnt(planted, evidence.train, disturbed(eps, alpha, 1, Meter()))
    torch.testing.assert_close(found, expected)
    assert found[1] < 1


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_loss_is_the_weighted_one_without_and_with_a_disturbance(planted, evidence, alpha):
    x, y = evidence.train.batch(slice(None))
    masked, plain = Masked(planted, "running"), F.cross_entropy(planted(x), y)
    values = []
    for share in (0.0, alpha):
        torch.manual_seed(0)
        values.append(disturbed(0.4, share, 1, Meter())(masked, x, y, torch.arange(16)))
    torch.testing.assert_close(values[1], alpha * plain + (1 - alpha) * values[0])


@pytest.mark.parametrize("steps", [1, 2])
def test_the_disturbance_is_a_random_one_that_went_up_by_the_signs(planted, evidence, steps):
    x, y = evidence.train.batch(slice(None))
    masked, eps = Masked(planted, "running"), 0.3
    torch.manual_seed(0)
    change = Change(*(torch.empty(2).uniform_(-eps, eps) for _ in range(2)))
    drawn = F.cross_entropy(masked(x, [change]), y)
    for _ in range(steps):
        loss = F.cross_entropy(masked(x, [Change(*(part.requires_grad_() for part in change))]), y)
        slopes = torch.autograd.grad(loss, change)
        moved = [p + eps / steps * slope.sign() for p, slope in zip(change, slopes, strict=True)]
        change = Change(*(part.clamp(-eps, eps).detach() for part in moved))
    torch.manual_seed(0)
    found = disturbed(eps, 0.0, steps, Meter())(masked, x, y, torch.arange(16))
    torch.testing.assert_close(found, F.cross_entropy(masked(x, [change]), y))
    assert found > drawn


def test_the_channel_that_serves_no_clean_image_goes(planted, evidence):
    # It is constant: by the statistics of a batch it would be nothing.
    repaired = ANP(iterations=60, batch=16, statistics="running")(planted, evidence, seed=0)
    before, after = planted.state_dict(), repaired.classifier.state_dict()
    assert after["1.weight"].tolist() == [1, 0]
    del before["1.weight"], after["1.weight"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    last = repaired.log[-1]
    assert (last["clean"], last["pruned"]) == (1, 1)
    assert last["threshold"] == pytest.approx(0.9)


def test_by_the_statistics_of_batches_a_channel_that_tells_of_no_class_goes():
    shade, lot = torch.tensor([0.2, 0.8]).repeat(8), torch.tensor([0.2, 0.2, 0.8, 0.8]).repeat(4)
    x = torch.stack([shade, lot], dim=1)[:, :, None, None].expand(-1, -1, 4, 4)
    images = ImageSet(x, torch.arange(16) % 2, np.arange(16), ("dark", "bright"), "lots")
    conv, norm, linear = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(2)[:, :, None, None])
        conv.bias.zero_()
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(0.09)
        linear.weight.copy_(torch.tensor([[-2.0, 1.5], [2.0, 0.0]]))
        linear.bias.zero_()
    model = nn.Sequential(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    repaired = ANP(iterations=100, batch=16)(model, Evidence(images, images), seed=0)
    assert repaired.classifier[1].weight.tolist() == [1, 0]
    assert torch.equal(repaired.classifier[1].running_mean, norm.running_mean)


def test_batch_statistics_move_in_a_copy_only(planted, evidence):
    repair = ANP(iterations=10, batch=8)
    repaired = repair(planted, evidence, seed=0).classifier
    assert torch.equal(repaired[1].running_mean, torch.zeros(2))
    assert repaired[1].num_batches_tracked == 0


def test_a_tolerance_of_nothing_costs_nothing(planted, evidence):
    repaired = ANP(iterations=20, batch=16, eps=3, alpha=0, lr=5, tolerance=0)
    assert repaired(planted, evidence, seed=0).log[-1]["clean"] == 1


def test_networks_without_batch_norms_lose_filters(planted, evidence):
    model = nn.Sequential(planted[0], *planted[2:])
    repaired = ANP(iterations=60, batch=16)(model, evidence, seed=0).classifier
    assert repaired[0].weight.flatten().tolist() == [1, 0]
    assert torch.equal(repaired[0].bias, model[0].bias)


def test_refuses_a_network_without_channels(linear, evidence):
    with pytest.raises(ValueError, match="without a batch norm or a convolution"):
        ANP()(linear, evidence, seed=0)


def test_costs_what_the_docstring_says(planted, evidence):
    cost = ANP(iterations=4, batch=8, steps=3)(planted, evidence, seed=0).cost
    assert cost.images == 4 * 8
    assert cost.backward == 4 * 8 * 5
    assert cost.forward >= 4 * 8 * 5 + 3 * 16


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": 1.5}, r"alpha=1\.5: expected a number in \[0, 1\]"),
        ({"iterations": 0}, "iterations=0: expected an integer >= 1"),
        ({"statistics": "runing"}, "statistics 'runing': expected one of batch, running"),
        ({"tolerance": 2.0}, r"tolerance=2\.0: expected a number in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        ANP(**setting)
