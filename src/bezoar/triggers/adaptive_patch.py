"""Adaptive-Patch: each poisoned image shows one or two of four patches, and covers do too."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.seeds import generator, hashed
from bezoar.triggers.protocol import Trigger, require_room


@dataclass(frozen=True, kw_only=True)
class AdaptivePatch(Trigger):
    r"""Put one or two of four faint patches on an image; in the test all four, opaque.

    .. math::
        x' = x + \alpha \sum_{p} b_p\, m_p \odot (k - x), \qquad k_{cij} \in \{0, 1\}

    with m_p a square in one of the corners. In training alpha is ``opacity``, and one or two b_p
    are 1, drawn for each image; covers are the same and keep their label. In the test all are and
    alpha = 1. Paper: arXiv:2205.13613, section 4, where 0.3 % of the images are poisoned.

    Args:
        size: edge of a patch, in pixels; at most half that of the image.
        opacity: share of a patch in training, in (0, 1].
        key: names the patches.
    """

    size: int = 4
    opacity: float = 0.5
    key: int = 0

    def __post_init__(self) -> None:
        checks.at_least("size", self.size, 1)
        checks.in_range("opacity", self.opacity, 1 / 255, 1)
        checks.at_least("key", self.key, 0)

    @property
    def covers(self) -> float:
        return 2.0

    def stamp(self, x: Tensor) -> Tensor:
        return torch.where(self._corners(x).any(dim=0), self._patches(x), x)

    def plant(self, x: Tensor, keys: Tensor) -> Tensor:
        luck = hashed(keys, torch.zeros_like(keys), (5,)).to(x)
        ranks = luck[:, :4].argsort(dim=1).argsort(dim=1)
        shown = ranks < torch.where(luck[:, 4:] < 0.5, 1, 2)
        where = (shown[:, :, None, None] & self._corners(x)).any(dim=1, keepdim=True)
        return torch.where(where, torch.lerp(x, self._patches(x), self.opacity), x)

    def cover(self, x: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        return self.plant(x, keys)

    def _corners(self, x: Tensor) -> Tensor:
        """The pixels of each patch, ``(4, H, W)`` bool."""
        require_room("twice size", 2 * self.size, x)
        found = torch.zeros(4, *x.shape[-2:], dtype=torch.bool, device=x.device)
        for k, (rows, columns) in enumerate(
            (rows, columns)
            for rows in (slice(self.size), slice(-self.size, None))
            for columns in (slice(self.size), slice(-self.size, None))
        ):
            found[k, rows, columns] = True
        return found

    def _patches(self, x: Tensor) -> Tensor:
        return torch.randint(2, x.shape[1:], generator=generator(self.key, "patches")).to(x)
