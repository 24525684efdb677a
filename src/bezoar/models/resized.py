"""Random resizing and padding as a purifier (arXiv:1711.01991)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.seeds import hashed


class Resized(nn.Module):
    r"""Shrink each image to a random size and put it at a random place on black.

    .. math::
        \hat x = \mathrm{pad}_{t,l}\bigl(\mathrm{resize}_{h \times w}(x)\bigr), \qquad
        h \sim U\{[\mathrm{low}\, H], \dots, [\mathrm{high}\, H]\},\;
        w = [h W / H],\; t \sim U\{0, \dots, H - h\},\; l \sim U\{0, \dots, W - w\}

    for images of H x W, resized bilinearly. The paper enlarges images and gives the network
    bigger ones; networks for one size only cannot take these, so here they shrink and the result
    has the size of the image. It is differentiable in the image, and its noise is declared: the
    attacks average over it.

    Args:
        low: smallest height as a share of the image's, in (0, 1].
        high: largest height, in [low, 1].

    Raises:
        ValueError: other shares.
    """

    kind: ClassVar[str] = "resized"

    def __init__(self, *, low: float = 0.9, high: float = 1.0) -> None:
        super().__init__()
        checks.in_range("low", low, 1e-3, 1)
        checks.in_range("high", high, low, 1)
        self.fields: dict[str, Any] = {"low": float(low), "high": float(high)}
        self._keys: Tensor | None = None

    def reseed(self, keys: Tensor | None) -> None:
        """Let sizes and places that follow depend on ``keys``, ``(N,)`` int64, alone."""
        self._keys = keys

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape."""
        if self._keys is None:
            draws = torch.rand(len(x), 3, device=x.device)
        else:
            draws = hashed(self._keys, torch.zeros_like(self._keys), (3,))
        height, width = x.shape[2:]
        least, most = (max(1, round(self.fields[name] * height)) for name in ("low", "high"))
        rows = least + (draws[:, 0] * (most - least + 1)).floor()
        columns = (rows * width / height).round().clamp(min=1)
        down = _positions(height, rows, draws[:, 1])
        right = _positions(width, columns, draws[:, 2])
        grid = torch.stack(torch.broadcast_tensors(right[:, None, :], down[:, :, None]), dim=3)
        # What lies on the border takes the pixel at the edge, as resizing does; the rest is black.
        inside = (grid.abs() <= 1).all(dim=3)[:, None]
        seen = F.grid_sample(x, grid.to(x), padding_mode="border", align_corners=False)
        return seen * inside


def _positions(side: int, kept: Tensor, draw: Tensor) -> Tensor:
    """Where each place of a side comes from, ``(N, side)``; the image spans -1 to 1.

    Args:
        side: of the image.
        kept: that of the shrunk image, ``(N,)``, whole numbers.
        draw: of its place, ``(N,)`` in [0, 1).
    """
    first = (draw * (side - kept + 1)).floor()
    middle = torch.arange(side, device=kept.device) + 0.5
    return 2 * (middle - first[:, None]) / kept[:, None] - 1
