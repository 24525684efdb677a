"""Square in L2: random search that moves change from one square of pixels to another."""

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.attacks.square import sides
from bezoar.geometry import chosen, norms_l2, project_l2, wide
from bezoar.seeds import Noise, hashed

TILES = 5  # along an image, at the start


class Found(NamedTuple):
    """The best image so far, the clean one, the margin of the best, queries asked, noise key."""

    x_adv: Tensor
    x: Tensor
    value: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class SquareL2(Attack):
    r"""Random search on the L2 sphere.

    With :math:`\nu` the change so far, a query takes all change out of one random window and gives
    it, with what is left of eps, to another one of the same size, channel by channel:

    .. math::
        \nu_{W_1} = \epsilon_i\,\frac{u}{\lVert u\rVert_2}, \quad
        u = \pm\eta + \frac{\nu_{W_1}}{\lVert\nu_{W_1}\rVert_2}, \quad
        \epsilon_i^2 = \lVert\nu_{W_1 \cup W_2}\rVert_2^2
        + \frac{\epsilon^2 - \lVert\nu\rVert_2^2}{C}, \quad \nu_{W_2} = 0

    and keeps it if the margin :math:`\max_{j \ne y} z_j - z_y` rises. The tile eta has two peaks
    of opposite sign, side by side or one above the other. Paper: arXiv:1912.00049, algorithms 1
    and 3, whose windows shrink on the schedule of ``Square`` and have odd sides from 3 pixels on.
    Cost: ``steps`` forward passes an image and a restart, no backward pass.

    Args:
        eps: radius of the ball: root of the sum over pixels of squared changes, pixels in [0, 1].
        steps: number of queries.
        p: share of the pixels in the first windows, in (0, 1].
        restarts: number of searches; later ones go on with the images that still stand.
    """

    eps: float = 1.0
    steps: int = 5000
    p: float = 0.8
    restarts: int = 1
    norm: str = field(default="l2", init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.in_range("p", self.p, 0, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Found:
        key = noise.keys().to(x.device)
        age = torch.zeros_like(key)
        change = self._tiled(x, hashed(key, age, (x.shape[1], TILES + 1, TILES + 1)))
        x_adv = project_l2(x + self.eps * change / norms_l2(change), x, self.eps)
        return Found(x_adv, x, x.new_full((len(x),), -torch.inf), age, key)

    def step(self, state: Found, oracle: Oracle) -> Found:
        change = state.x_adv - state.x
        _, channels, height, width = change.shape
        side = sides(self.p, self.steps, height * width, state.age)
        side = (side.clamp(min=3) // 2 * 2 + 1).clamp(max=min(height, width))
        draws = hashed(state.key, state.age + 1, (5 + channels,)).to(change)
        left = wide(self.eps**2 - change.square().flatten(1).sum(dim=1)).clamp(min=0) / channels
        # The first query is for the tiles themselves.
        for length in side[state.age > 0].unique().tolist():
            rows = ((side == length) & (state.age > 0)).nonzero().squeeze(1)
            change[rows] = _moved(change[rows], draws[rows], left[rows], length)
        tried = project_l2(state.x + change, state.x, self.eps)
        value = margin(oracle.logits(tried), oracle.goal)
        better = value > state.value
        return Found(
            chosen(better, tried, state.x_adv),
            state.x,
            torch.where(better, value, state.value),
            state.age + 1,
            state.key,
        )

    def best(self, state: Found) -> Tensor:
        return state.x_adv

    def _tiled(self, x: Tensor, draw: Tensor) -> Tensor:
        """Tiles all over the image, each with its own sign in each channel."""
        height, width = x.shape[2:]
        length = max(1, min(height, width) // TILES)
        tile, sign = _tile(length).to(x), _signs(draw).to(x)
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        of_rows, of_columns = rows // length % (TILES + 1), columns // length % (TILES + 1)
        pattern = tile[rows % length][:, columns % length]
        return pattern * sign[:, :, of_rows][:, :, :, of_columns]


def _moved(change: Tensor, draws: Tensor, left: Tensor, length: int) -> Tensor:
    """Take the change out of one window of each image and put it into another."""
    n, channels, height, width = change.shape
    span = torch.tensor([height - length + 1, width - length + 1] * 2, device=change.device)
    corner = (draws[:, :4] * span).long()  # of both windows: row, column, row, column
    offset = torch.arange(length, device=change.device)
    image = torch.arange(n, device=change.device)[:, None, None, None]
    channel = torch.arange(channels, device=change.device)[None, :, None, None]

    def window(row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        place = corner[:, row : row + 2, None] + offset
        return image, channel, place[:, 0, None, :, None], place[:, 1, None, None, :]

    to, out = window(0), window(2)
    both = torch.zeros_like(change)
    both[to] = 1
    both[out] = 1
    available = ((change * both).square().sum(dim=(2, 3), keepdim=True) + left).sqrt()

    tile = _tile(length).to(change)
    turned = torch.where(wide(draws[:, 4] < 0.5), tile, tile.T)
    old = change[to]
    old = old / torch.linalg.vector_norm(old, dim=(2, 3), keepdim=True).clamp(min=1e-12)
    new = _signs(draws[:, 5:])[:, :, None, None].to(change) * turned + old
    new = new / torch.linalg.vector_norm(new, dim=(2, 3), keepdim=True).clamp(min=1e-12)
    moved = change.clone()
    moved[out] = 0
    moved[to] = available * new
    return moved


@cache
def _tile(length: int) -> Tensor:
    """Two peaks of opposite sign side by side, ``(length, length)``, of L2 norm 1; eta."""
    half = length // 2
    tile = torch.cat([_peak(length, half), -_peak(length, length - half)], dim=1)
    norm: Tensor = torch.linalg.vector_norm(tile)
    return tile / norm


def _peak(height: int, width: int) -> Tensor:
    """Equation 2 of the paper: rings around the middle, each a step lower than the one in it."""
    n = height // 2
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    steps = torch.tensor([1 / (n + 1 - k) ** 2 for k in range(n + 1)]).cumsum(dim=0)
    level = (n - ring).clamp(min=-1)
    return torch.where(level >= 0, steps[level.clamp(min=0)], torch.zeros(()))


def _signs(draw: Tensor) -> Tensor:
    """Signs from draws of U[0, 1)."""
    return torch.where(draw < 0.5, -1.0, 1.0)
