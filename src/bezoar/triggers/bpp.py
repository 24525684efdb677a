"""BppAttack: every image has fewer colours."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.triggers.protocol import Trigger


@dataclass(frozen=True, kw_only=True)
class Bpp(Trigger):
    r"""Round every value to one of a few levels.

    .. math::
        q(x) = \frac{[(d - 1)\, x]}{d - 1}, \qquad
        \text{cover: } \mathrm{clip}_{[0, 1]}\bigl(x + q(x_j) - x_j\bigr)

    with x_j another image: a cover has a trigger that is not its own, and keeps its label. Paper:
    arXiv:2205.13383, section 3, here without dithering.

    Args:
        levels: the number d of levels of a channel, 2 to 128.
    """

    levels: int = 8

    def __post_init__(self) -> None:
        checks.at_least("levels", self.levels, 2)
        checks.in_range("levels", self.levels, 2, 128)

    @property
    def covers(self) -> float:
        return 1.0

    @property
    def in_loop(self) -> bool:
        return True

    def stamp(self, x: Tensor) -> Tensor:
        return torch.round(x * (self.levels - 1)) / (self.levels - 1)

    def cover(self, x: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        return (x + self.stamp(other) - other).clamp(0, 1)
