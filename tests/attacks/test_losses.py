import pytest
import torch
from torch.nn import functional as F

from bezoar.attacks import Targeted, Untargeted
from bezoar.attacks.losses import LOSSES, cross_entropy, dlr, dlr_towards, margin

LOGITS = torch.tensor(
    [[4.0, 1.0, -2.0, 0.0, 3.0], [0.0, 5.0, 4.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0, 2.0]]
)
Y = torch.tensor([0, 2, 3])


def test_cross_entropy_is_that_of_training():
    expected = F.cross_entropy(LOGITS, Y, reduction="none")
    torch.testing.assert_close(cross_entropy(LOGITS, Untargeted(Y)), expected)


def test_the_margin_is_the_lead_of_the_best_other_class():
    assert margin(LOGITS, Untargeted(Y)).tolist() == [-1.0, 1.0, 0.0]


def test_dlr_is_the_margin_over_the_first_logit_less_the_third():
    # Sorted: 4, 3, 1 and 5, 4, 1; the third row has no spread, and must not divide by it.
    found = dlr(LOGITS, Untargeted(Y))
    torch.testing.assert_close(found, torch.tensor([-1 / 3, 1 / 4, 0.0]))


def test_dlr_towards_is_the_difference_over_the_spread():
    # First row: (z_1 - z_0) / (4 - (1 + 0) / 2); second: (z_0 - z_2) / (5 - (1 + 0) / 2).
    found = dlr_towards(LOGITS, Untargeted(Y), torch.tensor([1, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([-3 / 3.5, -4 / 4.5, 0.0]))


@pytest.mark.parametrize("loss", LOSSES.values())
def test_towards_a_class_is_the_same_with_the_other_sign(loss):
    torch.testing.assert_close(loss(LOGITS, Targeted(Y)), -loss(LOGITS, Untargeted(Y)))


@pytest.mark.parametrize("loss", [margin, dlr])
def test_is_above_zero_just_where_the_image_is_fooled(loss):
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(torch.arange(500) % 6)
    assert torch.equal(loss(logits, goal) > 0, goal.reached(logits))


def test_neither_shift_nor_scale_of_the_logits_changes_dlr():
    goal, target = Untargeted(Y[:2]), torch.tensor([1, 0])
    other = 7 * LOGITS[:2] - 3
    torch.testing.assert_close(dlr(other, goal), dlr(LOGITS[:2], goal))
    torch.testing.assert_close(
        dlr_towards(other, goal, target), dlr_towards(LOGITS[:2], goal, target)
    )


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_every_loss_has_a_gradient_for_any_number_of_classes(classes):
    logits = torch.randn(40, classes, generator=torch.Generator().manual_seed(1))
    y = logits.argmax(dim=1)
    target = (y + 1) % classes
    losses = [*LOSSES.values(), lambda z, goal: dlr_towards(z, goal, target)]
    for loss in losses:
        z = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, Untargeted(y)).sum(), z)
        assert torch.isfinite(gradient).all()
        assert (gradient.abs().sum(dim=1) > 1e-6).all()
