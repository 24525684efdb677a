"""Square: random search over squares of pixels, for an attacker who sees the scores only."""

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, linf_radius, norms_linf
from bezoar.seeds import Noise, hashed

# Queries, of 10,000, after which the share of changed pixels is halved once more.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Found(NamedTuple):
    """The best image so far, the ball's corners in the box, the best margin, queries, noise key."""

    x_adv: Tensor
    low: Tensor
    high: Tensor
    value: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    r"""Random search in the Linf ball that moves one square of pixels at a time to its border.

    Starting from vertical stripes of :math:`x \pm \epsilon`, a query sets a square window at a
    random place to :math:`x \pm \epsilon`, one random sign a channel, and keeps it if the margin
    :math:`\max_{j \ne y} z_j - z_y` rises. The window holds a share p of the pixels that is
    halved on a fixed schedule. Paper: arXiv:1912.00049, algorithms 1 and 2.

    A window that would change nothing gets all its signs turned over instead of costing a query.
    Cost: ``steps`` forward passes an image and a restart, no backward pass.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        steps: number of queries.
        p: share of the pixels in the first windows, in (0, 1].
        restarts: number of searches; later ones go on with the images that still stand.
    """

    eps: float = 0.1
    steps: int = 5000
    p: float = 0.8
    restarts: int = 1
    norm: str = field(default="linf", init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.in_range("p", self.p, 0, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Found:
        n, channels, _, width = x.shape
        key = noise.keys().to(x.device)
        age = torch.zeros_like(key)
        raised = hashed(key, age, (channels, 1, width)) >= 0.5
        eps = linf_radius(self.eps)
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        stripes = chosen(raised, high, low)
        return Found(stripes, low, high, x.new_full((n,), -torch.inf), age, key)

    def step(self, state: Found, oracle: Oracle) -> Found:
        inside, raised = self._window(state)
        tried = chosen(inside, chosen(raised, state.high, state.low), state.x_adv)
        # An image that this would leave as it is gets the other signs.
        raised = raised ^ (norms_linf(tried - state.x_adv) == 0)
        tried = chosen(inside, chosen(raised, state.high, state.low), state.x_adv)
        value = margin(oracle.logits(tried), oracle.goal)
        better = value > state.value
        return state._replace(
            x_adv=chosen(better, tried, state.x_adv),
            value=torch.where(better, value, state.value),
            age=state.age + 1,
        )

    def best(self, state: Found) -> Tensor:
        return state.x_adv

    def _window(self, state: Found) -> tuple[Tensor, Tensor]:
        """Which pixels each query changes, 1.0 or 0.0 ``(N, 1, H, W)``, and if it raises them."""
        _, channels, height, width = state.x_adv.shape
        side = sides(self.p, self.steps, height * width, state.age).clamp(min=1)
        side = torch.where(state.age == 0, 0, side)  # the first query is for the stripes
        draws = hashed(state.key, state.age + 1, (2 + channels,))
        rows = _within(draws[:, 0], side, height)
        columns = _within(draws[:, 1], side, width)
        inside = rows[:, None, :, None] * columns[:, None, None, :]
        return inside, draws[:, 2:, None, None] >= 0.5


def sides(p: float, steps: int, pixels: int, age: Tensor) -> Tensor:
    """Side of the window after ``age`` of ``steps`` queries, ``(N,)`` int64: it shrinks."""
    return _sides(p, steps, pixels, age.device)[age]


@cache
def _sides(p: float, steps: int, pixels: int, device: torch.device) -> Tensor:
    """Side of the window of every query, ``(steps,)`` int64."""
    asked = torch.arange(steps) * 10_000 // steps
    late = asked[:, None] > torch.tensor(HALVINGS)
    share = p / 2.0 ** late.sum(dim=1)
    return (share * pixels).sqrt().round().long().to(device)


def _within(draw: Tensor, side: Tensor, length: int) -> Tensor:
    """A window of ``side`` at a random place of a line, 1.0 inside and 0.0 elsewhere."""
    side = side.clamp(max=length)
    first = (draw * (length - side + 1)).long()
    from_start = torch.arange(length, device=draw.device) - first[:, None]
    return ((from_start >= 0) & (from_start < side[:, None])).to(draw.dtype)
