"""WaNet: every image is warped a little, always in the same way."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bezoar import checks
from bezoar.seeds import generator, hashed
from bezoar.triggers.protocol import Trigger


@dataclass(frozen=True, kw_only=True)
class WaNet(Trigger):
    r"""Warp images by a smooth field of displacements.

    .. math::
        x' = \mathcal{W}\bigl(x, \mathrm{clip}_{[-1, 1]}(g + s\, n / S)\bigr), \qquad
        n = \uparrow\bigl(u / \mathrm{mean}|u|\bigr), \quad u \sim U[-1, 1]^{k \times k \times 2}

    with W bilinear sampling, g the grid of the pixels' own places in [-1, 1], S = (W, H) and the
    arrow bicubic interpolation to the size of the image. A cover adds :math:`e / S` to the grid,
    :math:`e \sim U[-1, 1]^{H \times W \times 2}` afresh each time, and keeps its label, so that
    the classifier learns this field and no other. Paper: arXiv:2102.10369, section 3.

    Args:
        grid: the number k of points on each side of the coarse field.
        strength: the factor s; 1 moves a point by half a pixel on average.
        key: names the field.
    """

    grid: int = 4
    strength: float = 0.5
    key: int = 0

    def __post_init__(self) -> None:
        checks.at_least("grid", self.grid, 2)
        checks.in_range("strength", self.strength, 0.01)
        checks.at_least("key", self.key, 0)

    @property
    def covers(self) -> float:
        return 2.0

    @property
    def in_loop(self) -> bool:
        return True

    def stamp(self, x: Tensor) -> Tensor:
        return _sampled(x, self.field(x).expand(len(x), -1, -1, -1))

    def cover(self, x: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        noise = 2 * hashed(keys, torch.zeros_like(keys), (height, width, 2)) - 1
        return _sampled(x, (self.field(x) + noise.to(x) / x.new_tensor([width, height])))

    def field(self, x: Tensor) -> Tensor:
        """Where each pixel of the images is taken from, ``(1, H, W, 2)``: x and y in [-1, 1]."""
        height, width = x.shape[-2:]
        if min(height, width) < self.grid:
            found = f"grid={self.grid} on images of {height}x{width}"
            raise ValueError(f"{found}: expected no more points than pixels")
        coarse = 2 * torch.rand(1, 2, self.grid, self.grid, generator=generator(self.key, "warp"))
        coarse = (coarse - 1) / (coarse - 1).abs().mean()
        fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        rows, columns = (torch.linspace(-1, 1, size) for size in (height, width))
        own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        moved = own + self.strength * fine.permute(0, 2, 3, 1) / torch.tensor([width, height])
        return moved.clamp(-1, 1).to(x)


def _sampled(x: Tensor, field: Tensor) -> Tensor:
    sampled = F.grid_sample(x, field.clamp(-1, 1), align_corners=True)
    return sampled.clamp(0, 1)  # weights that sum to 1 up to rounding
