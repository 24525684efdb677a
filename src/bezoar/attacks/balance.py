"""The search for the smallest weight of the loss with which an attack still fools."""

import torch
from torch import Tensor


def next_weight(
    c: Tensor, low: Tensor, high: Tensor, fooled: Tensor, ended: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a search with weight c has ended, the next c and the interval around the smallest.

    Ten times as much until one has fooled, from then on the middle of the interval. Paper:
    arXiv:1608.04644, section V.

    Args:
        c: the weights, ``(N, 1, 1, 1)`` like all others.
        low: the largest c that did not fool, at first 0.
        high: the smallest that did, at first infinite.
        fooled: whether this c has fooled.
        ended: whether its search has ended; of the others all stays as it is.

    Returns:
        c, low and high.
    """
    high = torch.where(ended & fooled, torch.minimum(high, c), high)
    low = torch.where(ended & ~fooled, torch.maximum(low, c), low)
    following = torch.where(high < torch.inf, (low + high) / 2, 10 * c)
    return torch.where(ended, following, c), low, high
