"""MagNet: an auto-encoder that moves images towards the clean ones (arXiv:1705.09064)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.models.fields import Shape, checked, whole


class Reformer(nn.Module):
    """The auto-encoder of the paper for MNIST: few maps, at half the size in the middle.

    A convolution of 3x3, the mean over 2x2, two convolutions, back to the full size by doubling
    and two more; a sigmoid after each. Sides that are odd are taken as they are.

    Args:
        shape: channels, height and width of an image.
        width: maps of each convolution but the last.

    Raises:
        ValueError: sizes below 1 or absurdly large.
    """

    kind: ClassVar[str] = "reformer"

    def __init__(self, *, shape: Shape = (1, 28, 28), width: int = 3) -> None:
        super().__init__()
        sides = checked(shape, 2, None, None)["shape"]
        self.fields: dict[str, Any] = {"shape": sides, "width": whole("width", width)}
        self.first = nn.Conv2d(sides[0], width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.third = nn.Conv2d(width, width, 3, padding=1)
        self.fourth = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, sides[0], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape, in (0, 1)."""
        small = F.avg_pool2d(self.first(x).sigmoid(), 2, ceil_mode=True)
        small = self.third(self.second(small).sigmoid()).sigmoid()
        large = F.interpolate(small, size=x.shape[2:])
        made: Tensor = self.last(self.fourth(large).sigmoid()).sigmoid()
        return made


class MagNet(nn.Module):
    r"""A network that sees what a reformer makes of an image, and rejects what it changes much.

    .. math::
        s(x) = \frac1d \lVert x - A(x) \rVert_p^p

    Args:
        reformer: A, images to images of the same shape.
        network: images to logits.
        p: 1 or 2.

    Attributes:
        threshold: a scalar; what has a higher score is rejected. 1, so nothing, until it is set.

    Raises:
        ValueError: another p.
    """

    kind: ClassVar[str] = "magnet"
    threshold: Tensor

    def __init__(self, *, reformer: nn.Module, network: nn.Module, p: int = 1) -> None:
        super().__init__()
        if p not in (1, 2) or type(p) is not int:
            raise ValueError(f"p={p!r}: expected 1 or 2")
        self.fields: dict[str, Any] = {"p": p}
        self.reformer, self.network, self._p = reformer, network, p
        self.register_buffer("threshold", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        logits: Tensor = self.network(self.reformer(x))
        return logits

    def score(self, x: Tensor) -> Tensor:
        """How much the reformer changes each image, ``(N,)``, a mean over its values."""
        change: Tensor = (x - self.reformer(x)).flatten(1).abs()
        return change.pow(self._p).mean(dim=1)
