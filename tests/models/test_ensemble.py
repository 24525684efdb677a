from copy import deepcopy

import pytest
import torch
from torch import nn

from bezoar.attacks import FGSM, MIFGSM
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Untargeted
from bezoar.classifier import weights_hash
from bezoar.models import Ensemble


def gradient(model, x, y):
    point = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(cross_entropy(model(point), Untargeted(y)).sum(), point)
    return found


class MeanLogits(nn.Module):
    """The same fusion without any normalisation."""

    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        return sum(member(x) for member in self.members) / len(self.members)


def test_gives_log_probabilities(linear, small_convnet, batch):
    x, _ = batch
    found = Ensemble([linear, small_convnet])(x)
    assert found.shape == (12, 3)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(12))
    geometric = (linear(x).softmax(dim=1) * small_convnet(x).softmax(dim=1)).sqrt()
    torch.testing.assert_close(
        found.exp(), geometric / geometric.sum(dim=1, keepdim=True), atol=1e-6, rtol=0
    )


def test_one_member_is_itself_up_to_a_constant(linear, batch):
    x, _ = batch
    torch.testing.assert_close(Ensemble([linear])(x), linear(x).log_softmax(dim=1))


def test_attacks_see_the_mean_of_the_logits(linear, small_convnet, batch):
    x, y = batch
    found = gradient(Ensemble([linear, small_convnet]), x, y)
    torch.testing.assert_close(found, gradient(MeanLogits(linear, small_convnet), x, y))


def test_the_offset_of_a_members_logits_rounds_nothing_away(linear, batch):
    x, y = batch
    shifted = deepcopy(linear)
    with torch.no_grad():
        shifted[1].bias += 1e3
    plain = gradient(Ensemble([linear, linear]), x, y)
    torch.testing.assert_close(
        gradient(Ensemble([linear, shifted]), x, y), plain, atol=1e-3, rtol=0
    )


def affine(weight):
    layer = nn.Linear(20, 2, bias=False)
    layer.weight.data = torch.stack([weight, torch.zeros(20)])
    return nn.Sequential(nn.Flatten(), layer)


def test_what_its_members_have_in_common_carries_over(batch):
    # Each surrogate has five pixels the wrong way round, and no two of them the same.
    x, y = 0.25 + batch[0] / 2, torch.zeros(12, dtype=torch.int64)
    turned = [torch.ones(20).index_fill(0, torch.arange(5 * k, 5 * k + 5), -1) for k in range(3)]
    surrogates, unknown = [affine(weight) for weight in turned], affine(torch.ones(20))

    def fall(surrogate):
        return (unknown(x) - unknown(FGSM(eps=0.1)(surrogate, x, y)))[:, 0]

    torch.testing.assert_close(fall(surrogates[0]), torch.full((12,), 0.1 * (15 - 5)))
    torch.testing.assert_close(fall(Ensemble(surrogates)), torch.full((12,), 0.1 * 20))


def test_is_a_classifier_like_any_other(linear, small_convnet, batch):
    x, y = batch
    model = Ensemble([linear, small_convnet])
    assert MIFGSM(eps=0.1)(model, x, y).shape == x.shape
    assert weights_hash(model) != weights_hash(Ensemble([small_convnet, linear]))


def test_refuses_to_be_made_of_nothing():
    with pytest.raises(ValueError, match=r"members=\[\]: expected at least one classifier"):
        Ensemble([])
