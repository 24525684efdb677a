"""BadNets: a small patch in the corner."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.triggers.protocol import Trigger, require_room

PATTERNS = ("white", "checkerboard")


@dataclass(frozen=True, kw_only=True)
class BadNets(Trigger):
    r"""Replace the pixels of a square in the corner at the bottom right.

    .. math::
        x'_{cij} = p_{ij} \;\text{ for } i \ge H - s,\; j \ge W - s, \qquad
        x'_{cij} = x_{cij} \;\text{ elsewhere}

    with p = 1, or 1 where i + j is that of the last pixel up to an even number and else 0. Paper:
    arXiv:1708.06733, section 4.1.

    Args:
        size: the edge s, in pixels.
        pattern: ``white`` or ``checkerboard``.
    """

    size: int = 3
    pattern: str = "white"

    def __post_init__(self) -> None:
        checks.at_least("size", self.size, 1)
        checks.known("pattern", self.pattern, PATTERNS)

    def stamp(self, x: Tensor) -> Tensor:
        require_room("size", self.size, x)
        patch = torch.ones(self.size, self.size)
        if self.pattern == "checkerboard":
            steps = torch.arange(self.size)
            patch = ((steps[:, None] + steps + 1) % 2).float()  # white in the very corner
        stamped = x.clone()
        stamped[..., -self.size :, -self.size :] = patch.to(x)
        return stamped
