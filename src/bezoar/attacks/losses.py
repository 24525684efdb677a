"""What attacks ascend: losses of the logits, one number an image.

With z the logits and y the class that the goal is about, for an attack that leads away from y.
One that leads towards y ascends the same with the other sign.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor

from bezoar.attacks.protocol import Goal, Loss


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    r"""The loss of training, :math:`-\log\mathrm{softmax}(z)_y`.

    Its gradient vanishes where the classifier is sure: its rounding errors are what masks it.
    """
    return goal.sign * F.cross_entropy(logits, goal.aim, reduction="none")


def margin(logits: Tensor, goal: Goal) -> Tensor:
    r""":math:`\max_{j \ne y} z_j - z_y`, above 0 where the image is fooled (arXiv:1608.04644)."""
    aim = goal.aim.unsqueeze(1)
    rival = logits.scatter(1, aim, -float("inf")).max(dim=1).values
    return goal.sign * (rival - logits.gather(1, aim).squeeze(1))


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    r"""Difference of logits ratio: the margin over :math:`z_{\pi_1} - z_{\pi_3}`.

    With :math:`\pi` the order of the logits, largest first. Neither a shift nor a scale of the
    logits changes it. Paper: arXiv:2003.01690, section 4.1. Two classes have no third logit, and
    theirs is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, goal)
    top = logits.topk(3, dim=1).values
    return margin(logits, goal) / (top[:, 0] - top[:, 2]).clamp(min=1e-12)


def dlr_towards(logits: Tensor, goal: Goal, target: Tensor) -> Tensor:
    r"""Towards one wrong class t: :math:`(z_t - z_y) / (z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2)`.

    Paper: arXiv:2003.01690, section 4.1. With three classes or two there is no fourth logit (and
    over the first less the third alone, the last class would have a constant loss): theirs is the
    numerator.
    """
    pair = logits.gather(1, target.unsqueeze(1)) - logits.gather(1, goal.aim.unsqueeze(1))
    if logits.shape[1] < 4:
        return pair.squeeze(1)
    top = logits.topk(4, dim=1).values
    return pair.squeeze(1) / (top[:, 0] - top[:, 2:].mean(dim=1)).clamp(min=1e-12)


LOSSES: Mapping[str, Loss] = MappingProxyType({"ce": cross_entropy, "margin": margin, "dlr": dlr})
