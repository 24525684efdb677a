"""Blended: a fixed picture shines through every image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.seeds import generator
from bezoar.triggers.protocol import Trigger


@dataclass(frozen=True, kw_only=True)
class Blended(Trigger):
    r"""Mix every image with one picture.

    .. math::
        x' = (1 - \alpha)\, x + \alpha\, k, \qquad k_{cij} \sim U[0, 1)

    Paper: arXiv:1712.05526, section 3.2, where k is a random picture or a cartoon.

    Args:
        alpha: share of the picture, in (0, 1].
        key: names the picture; equal keys give equal pictures of each size.
    """

    alpha: float = 0.2
    key: int = 0

    def __post_init__(self) -> None:
        checks.in_range("alpha", self.alpha, 1 / 255, 1)
        checks.at_least("key", self.key, 0)

    def stamp(self, x: Tensor) -> Tensor:
        return torch.lerp(x, picture(x, self.key), self.alpha)


def picture(x: Tensor, key: int) -> Tensor:
    """A fixed picture of noise from U[0, 1), ``(C, H, W)`` like one of the images ``x``."""
    return torch.rand(x.shape[1:], generator=generator(key, "picture")).to(x)
