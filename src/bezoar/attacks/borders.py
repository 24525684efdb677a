"""What attacks that see decisions only share: a start that fools, the way to the border, a poll."""

from collections.abc import Callable

import torch
from torch import Tensor

from bezoar.attacks.protocol import Oracle
from bezoar.geometry import DISTANCES, chosen, direction_l2, wide
from bezoar.seeds import hashed, hashed_normal

HALVINGS = 20  # of a way; beyond that float32 tells no points apart
PASS = 512  # points of a poll that are asked about at once

NORMS = ("l2", "linf")


def first_fooling(x: Tensor, oracle: Oracle, key: Tensor, draws: int) -> Tensor:
    """A first image that fools: the clean one, or the first uniform random image that does.

    Where none of ``draws`` random images fools, the clean image. Cost: a forward pass an image, and
    one a draw until one fools. Uses the draws 0 to ``draws - 1`` of ``hashed``.
    """
    x_adv = x.clone()
    left = (~oracle.decide(x)).nonzero().squeeze(1)
    for draw in range(draws):
        if not len(left):
            break
        tried = hashed(key[left], torch.full_like(left, draw), x.shape[1:]).to(x)
        fooled = oracle.of(left).decide(tried)
        x_adv[left[fooled]] = tried[fooled]
        left = left[~fooled]
    return x_adv


def to_border(x_adv: Tensor, x: Tensor, oracle: Oracle, norm: str, width: Tensor) -> Tensor:
    r"""The fooling end of a piece of the way from ``x`` to ``x_adv`` on which the border lies.

    The way is a line in L2; in Linf it is ``x_adv`` cut to balls around ``x``. It is halved until
    the piece is not longer than ``width``, but at most 20 times. Where ``x_adv`` is ``x`` there is
    no way, and nothing is asked.

    Args:
        x_adv: images that fool, ``(N, C, H, W)``.
        x: images that do not, of the same shape.
        oracle: about these images.
        norm: ``l2`` or ``linf``.
        width: in pixel units of the norm, ``(N,)``, above 0.

    Cost: :math:`\lceil\log_2(d / width)\rceil` forward passes an image at distance d.
    """
    far = DISTANCES[norm](x_adv, x)

    def place(rows: Tensor, share: Tensor) -> Tensor:
        return _between(x_adv[rows], x[rows], norm, share)

    high = halved(torch.ones_like(far), far, width, oracle, place)
    # Where no nearer point fooled it stays what it was, without rounding.
    return chosen(high < 1, _between(x_adv, x, norm, high), x_adv)


def halved(
    high: Tensor,
    unit: Tensor | float,
    width: Tensor,
    oracle: Oracle,
    place: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The fooling end of a piece of a way from 0 to ``high`` on which the border lies, ``(N,)``.

    Args:
        high: where each image fools, ``(N,)``.
        unit: what a piece of 1 is long.
        width: the way is halved until the piece is not longer, but at most 20 times, ``(N,)``.
        oracle: about these images.
        place: from rows, ``(M,)``, and as many places on their ways to the points.
    """
    low = torch.zeros_like(high)
    for _ in range(HALVINGS):
        rows = ((high - low) * unit > width).nonzero().squeeze(1)
        if not len(rows):
            break
        middle = (low[rows] + high[rows]) / 2
        fooled = oracle.of(rows).decide(place(rows, middle))
        high = high.index_put((rows,), torch.where(fooled, middle, high[rows]))
        low = low.index_put((rows,), torch.where(fooled, low[rows], middle))
    return high


def _between(x_adv: Tensor, x: Tensor, norm: str, share: Tensor) -> Tensor:
    """The point at a share of the way from ``x`` to ``x_adv``, ``(N,)``."""
    if norm == "l2":
        return (x + wide(share) * (x_adv - x)).clamp(0, 1)
    radius = wide(share * DISTANCES[norm](x_adv, x))
    return torch.minimum(torch.maximum(x_adv, x - radius), x + radius)


def poll(
    centre: Tensor,
    oracle: Oracle,
    key: Tensor,
    drawn: Tensor,
    count: Tensor,
    place: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Ask about random points around each image, some at a time.

    Args:
        centre: images ``(N, C, H, W)``.
        oracle: about them.
        key: of their noise, ``(N,)``.
        drawn: draws of ``hashed`` that each has used, ``(N,)``; the poll uses the next ``count``.
        count: points of each image, ``(N,)`` int64.
        place: from rows of ``centre``, ``(M,)``, and as many directions, uniform on the unit
            sphere, to the points and what counts as their displacements.

    Returns:
        Of each image, with phi 1 where a point fools and -1 elsewhere: the sum of the points'
        displacements, the sum of phi times the displacements, both ``(N, C, H, W)``, and the mean
        of phi, ``(N,)``.

    Cost: ``count`` forward passes an image.
    """
    total, leaning = torch.zeros_like(centre), torch.zeros_like(centre)
    votes = centre.new_zeros(len(centre))
    chunk = max(1, PASS // len(centre))
    for first in range(0, int(count.max()), chunk):
        number = first + torch.arange(chunk, device=centre.device)
        asked = number < count[:, None]
        rows, column = asked.nonzero(as_tuple=True)
        draw = drawn[rows] + number[column]
        u = direction_l2(hashed_normal(key[rows], draw, centre.shape[1:]).to(centre))
        points, displaced = place(rows, u)
        phi = torch.where(oracle.of(rows).decide(points), 1, -1).to(centre)
        # Sums of a table with a row an image: unlike scattered ones they repeat bit by bit.
        moved = centre.new_zeros(*asked.shape, *centre.shape[1:])
        moved[asked] = displaced
        sides = centre.new_zeros(asked.shape)
        sides[asked] = phi
        total += moved.sum(dim=1)
        leaning += (sides[:, :, None, None, None] * moved).sum(dim=1)
        votes += sides.sum(dim=1)
    return total, leaning, votes / count
