"""Adaptive-Blend: each poisoned image shows other parts of a picture, and covers do too."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.seeds import hashed
from bezoar.triggers.blended import picture
from bezoar.triggers.protocol import Trigger


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(Trigger):
    r"""Mix half of the tiles of every image with those of one picture; in the test, all of them.

    .. math::
        x' = x + \alpha\, m \odot (k - x), \qquad k_{cij} \sim U[0, 1)

    In training m is 1 on a random half of the tiles, drawn for each image, and alpha is
    ``weak``; covers are the same and keep their label. In the test m = 1. So what is poisoned lies
    among what is not, and a scan of the features finds no cluster. Paper: arXiv:2205.13613,
    section 4, where 0.3 % of the images are poisoned.

    Args:
        alpha: share of the picture in the test, in (0, 1].
        weak: share of the picture in training, in (0, 1].
        tiles: number of tiles on each side of the image.
        key: names the picture.
    """

    alpha: float = 0.2
    weak: float = 0.15
    tiles: int = 4
    key: int = 0

    def __post_init__(self) -> None:
        checks.in_range("alpha", self.alpha, 1 / 255, 1)
        checks.in_range("weak", self.weak, 1 / 255, 1)
        checks.at_least("tiles", self.tiles, 2)
        checks.at_least("key", self.key, 0)

    @property
    def covers(self) -> float:
        return 1.0

    def stamp(self, x: Tensor) -> Tensor:
        return torch.lerp(x, picture(x, self.key), self.alpha)

    def plant(self, x: Tensor, keys: Tensor) -> Tensor:
        mixed = torch.lerp(x, picture(x, self.key), self.weak)
        return torch.where(self._shown(x, keys), mixed, x)

    def cover(self, x: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        return self.plant(x, keys)

    def _shown(self, x: Tensor, keys: Tensor) -> Tensor:
        """Which pixels of each image show the picture, ``(N, 1, H, W)`` bool."""
        height, width = x.shape[-2:]
        if min(height, width) < self.tiles:
            found = f"tiles={self.tiles} on images of {height}x{width}"
            raise ValueError(f"{found}: expected no more tiles than pixels")
        count = self.tiles**2
        ranks = hashed(keys, torch.zeros_like(keys), (count,)).argsort(dim=1).argsort(dim=1)
        chosen = (ranks < count // 2).reshape(-1, 1, self.tiles, self.tiles).to(x.device)
        rows, columns = (
            torch.arange(size, device=x.device) * self.tiles // size for size in (height, width)
        )
        return chosen[:, :, rows][:, :, :, columns]
