"""Plain stacks of 3x3 convolutions: VGG (arXiv:1409.1556), and a shallow one that bears its name.

Both take images ``(N, C, H, W)`` in [0, 1] of any size and give logits ``(N, classes)``; what they
do to images of a size that their poolings cannot take, they do inside: a user, and an attacker,
only ever sees the pixels of the real image.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from bezoar.classifier import Normalise
from bezoar.models.fields import Shape, checked, whole
from bezoar.models.padding import padded, padding

# Table 1 of arXiv:1409.1556, columns D and E: convolutions of each stage.
STAGES: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)},
)


class VGG(nn.Module):
    r"""VGG-16 or VGG-19 (arXiv:1409.1556, configurations D and E), sized for small images.

    Five stages of 3x3 convolutions with ReLU, of 1, 2, 4, 8, 8 times ``width`` maps, each followed
    by a 2x2 max-pooling; two layers of ``hidden`` units with ReLU and dropout; the logits. With
    ``shape=(3, 224, 224)``, 1000 classes and ``hidden=4096`` these are the paper's networks, to
    the parameter. Images are padded with black to at least 32x32, what five poolings take.

    The weights below the logits start He-uniform, of variance :math:`2 / n` with n inputs
    (arXiv:1502.01852, section 2.2); Glorot's would about halve the signal at every ReLU.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.
        depth: layers with weights, 16 or 19.
        width: maps of the first stage; the paper has 64.
        norm: batch normalisation between each convolution and its ReLU, which the paper has not.
        hidden: units of each of the two fully connected layers.
        dropout: share of the hidden units that is dropped in training, from 0 to below 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, a mean or std that does not fit them, or a
            depth, norm or dropout that there is not.
    """

    kind: ClassVar[str] = "vgg"
    smallest: ClassVar[int] = 32

    def __init__(
        self,
        *,
        shape: Shape = (3, 32, 32),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        depth: int = 16,
        width: int = 64,
        norm: bool = False,
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if type(depth) is not int or depth not in STAGES:
            raise ValueError(f"depth={depth!r}: expected one of {', '.join(map(str, STAGES))}")
        if type(norm) is not bool:
            raise ValueError(f"norm={norm!r}: expected true or false")
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r}: expected a number from 0 to below 1")
        whole("width", width)
        whole("hidden", hidden)
        fields = checked(shape, classes, mean, std)
        own = {"depth": depth, "width": width, "norm": norm, "hidden": hidden, "dropout": dropout}
        self.fields = {**fields, **own}
        self.normalise = Normalise(fields["mean"], fields["std"])
        self.pad = padding(shape, self.smallest)
        layers: list[nn.Module] = []
        before = shape[0]
        for factor, count in zip((1, 2, 4, 8, 8), STAGES[depth], strict=True):
            for _ in range(count):
                layers += _convolution(before, width * factor, norm)
                before = width * factor
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        rows, columns = (side // 32 for side in padded(shape, self.smallest))
        self.hidden = nn.Sequential(
            *(nn.Linear(before * rows * columns, hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.output = nn.Linear(hidden, classes)

    def start(self, generator: torch.Generator) -> None:
        """Draw He-uniform weights for every layer that a ReLU follows; called by ``initialise``."""
        for layer in (*self.features, *self.hidden):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weights = torch.empty(layer.weight.shape)  # on the CPU, as in initialise
                nn.init.kaiming_uniform_(weights, nonlinearity="relu", generator=generator)
                layer.weight.data.copy_(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        x = self.features(self.normalise(self.pad(x)))
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits


class ShallowVGG(nn.Module):
    """The network that arXiv:2312.03520 calls VGG-16: eight convolutions, three linear layers.

    Four times two 3x3 convolutions with batch normalisation and ReLU and a 2x2 max-pooling, of
    1, 2, 4, 8 times ``width`` maps; two layers of ``64 * width`` units with ReLU and dropout 0.65;
    the logits. Images whose height or width is no multiple of 16, what four poolings take, are
    enlarged to the next one, bilinearly: 28x28 to 32x32, as in the paper.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.
        width: maps of the first block; the paper has 64.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "vgg-8conv"

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__()
        whole("width", width)
        fields = checked(shape, classes, mean, std)
        self.fields = {**fields, "width": width}
        self.normalise = Normalise(fields["mean"], fields["std"])
        rows, columns = (-(-side // 16) for side in shape[1:])
        size = (16 * rows, 16 * columns)
        self.enlarge = (
            nn.Identity() if size == tuple(shape[1:]) else nn.Upsample(size=size, mode="bilinear")
        )
        layers: list[nn.Module] = []
        before = shape[0]
        for maps in (width, 2 * width, 4 * width, 8 * width):
            layers += [*_convolution(before, maps, True), *_convolution(maps, maps, True)]
            layers.append(nn.MaxPool2d(2))
            before = maps
        self.features = nn.Sequential(*layers)
        units = 64 * width
        self.hidden = nn.Sequential(
            *(nn.Linear(before * rows * columns, units), nn.ReLU(), nn.Dropout(0.65)),
            *(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.65)),
        )
        self.output = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        x = self.features(self.normalise(self.enlarge(x)))
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits


def _convolution(before: int, maps: int, norm: bool) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, batch normalisation where asked, ReLU."""
    between = [nn.BatchNorm2d(maps)] if norm else []
    return [nn.Conv2d(before, maps, 3, padding=1), *between, nn.ReLU()]
