"""Residual networks with normalisation before each convolution (arXiv:1603.05027)."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.classifier import Normalise
from bezoar.models.fields import Shape, checked, whole


class PreActResNet(nn.Module):
    r"""Pre-activation ResNet for small images: four stages of 1, 2, 4, 8 times ``width`` maps.

    A block is :math:`x + W_2 r(W_1 r(x))` with r batch normalisation and ReLU, and the identity
    replaced by a 1x1 convolution of r(x) where the number of maps or the size changes. The first
    convolution keeps the size, each later stage halves it. With ``width=64`` and two blocks a stage
    it is PreAct ResNet-18; the default is a sixteenth of that in work, for machines without a GPU.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.
        width: maps of the first stage.
        blocks: blocks of each stage, four numbers.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "preact-resnet"

    def __init__(
        self,
        *,
        shape: Shape = (3, 32, 32),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        width: int = 16,
        blocks: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        whole("width", width)
        counts = [whole("blocks", count) for count in blocks]
        if len(counts) != 4:
            raise ValueError(f"blocks={blocks!r}: expected four numbers, one a stage")
        fields = checked(shape, classes, mean, std)
        self.fields = {**fields, "width": width, "blocks": counts}
        self.normalise = Normalise(fields["mean"], fields["std"])
        self.conv = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        stages, before = [], width
        for stage, count in enumerate(counts):
            maps = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            for stride in strides:
                stages.append(Block(before, maps, stride))
                before = maps
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before)
        self.output = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        x = self.stages(self.conv(self.normalise(x)))
        x = F.adaptive_avg_pool2d(F.relu(self.norm(x)), 1)
        logits: Tensor = self.output(x.flatten(1))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity; both see what is normalised and rectified.

    Args:
        before: maps of what comes in.
        maps: maps of what goes out.
        stride: of the first convolution; 2 halves height and width.
    """

    def __init__(self, before: int, maps: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, maps, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        changes = stride != 1 or before != maps
        self.shortcut = nn.Conv2d(before, maps, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, before, H, W)`` to maps ``(N, maps, H / stride, W / stride)``."""
        active = F.relu(self.norm1(x))
        beside = x if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return changed + beside
