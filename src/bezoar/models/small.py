"""Six small classifiers, A to F, on which Defense-GAN was measured (arXiv:1805.06605).

All six take images ``(N, C, H, W)`` in [0, 1] of any size and give logits ``(N, classes)``. An
image below the smallest size that the layers can take is padded with black on all sides, inside
the network: a user, and an attacker, only ever sees the pixels of the real image.

PuVAE (arXiv:1903.00585) has classifiers A to D of its own; its A is this one.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from bezoar.classifier import Normalise
from bezoar.models.fields import Shape, checked
from bezoar.models.padding import padded, padding


class NetA(nn.Module):
    """Two convolutions 5x5 of 64 maps, dropout 0.25, 128 units, dropout 0.5 (arXiv:1805.06605).

    The first convolution keeps the size, the second has stride 2 and no border. Images are padded
    to at least 5x5.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "net-a"
    smallest: ClassVar[int] = 5

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        height, width = ((side - 3) // 2 for side in padded(shape, self.smallest))
        self.features = nn.Sequential(
            *(nn.Conv2d(shape[0], 64, 5, padding=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25)),
            *(nn.Linear(64 * height * width, 128), nn.ReLU(), nn.Dropout(0.5)),
        )
        self.output = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(self.pad(x))))
        return logits


class NetB(nn.Module):
    """Dropout 0.2, convolutions 8x8, 6x6, 5x5 of 64, 128, 128 maps, dropout 0.5 (arXiv:1805.06605).

    The first convolution halves the size, the second has stride 2 and, like the third, no border.
    The first dropout takes pixels. Images are padded to at least 28x28.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "net-b"
    smallest: ClassVar[int] = 28

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        height, width = ((side // 2 - 4) // 2 - 4 for side in padded(shape, self.smallest))
        self.features = nn.Sequential(
            nn.Dropout(0.2),
            *(nn.Conv2d(shape[0], 64, 8, stride=2, padding=3), nn.ReLU()),
            *(nn.Conv2d(64, 128, 6, stride=2), nn.ReLU()),
            *(nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()),
        )
        self.output = nn.Linear(128 * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(self.pad(x))))
        return logits


class NetC(nn.Module):
    """Convolutions 3x3 of 128 and 5x5 of 64 maps, dropout 0.25, 128 units, dropout 0.5.

    The first convolution keeps the size, the second has stride 2 and no border. Images are padded
    to at least 5x5. Source: arXiv:1805.06605.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "net-c"
    smallest: ClassVar[int] = 5

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        height, width = ((side - 3) // 2 for side in padded(shape, self.smallest))
        self.features = nn.Sequential(
            *(nn.Conv2d(shape[0], 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25)),
            *(nn.Linear(64 * height * width, 128), nn.ReLU(), nn.Dropout(0.5)),
        )
        self.output = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(self.pad(x))))
        return logits


class NetD(nn.Module):
    """Two layers of 200 units, dropout 0.5 between them (arXiv:1805.06605).

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "net-d"

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.features = nn.Sequential(
            *(nn.Flatten(), nn.Linear(math.prod(shape), 200), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(200, 200), nn.ReLU()),
        )
        self.output = nn.Linear(200, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(x)))
        return logits


class NetE(nn.Module):
    """Two layers of 200 units, D without its dropout (arXiv:1805.06605).

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "net-e"

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.features = nn.Sequential(
            *(nn.Flatten(), nn.Linear(math.prod(shape), 200), nn.ReLU()),
            *(nn.Linear(200, 200), nn.ReLU()),
        )
        self.output = nn.Linear(200, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(x)))
        return logits


class NetF(nn.Module):
    """Convolutions 8x8, 6x6, 5x5 of 64, 128, 128 maps, B without its dropout (arXiv:1805.06605).

    Images are padded to at least 28x28.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """

    kind: ClassVar[str] = "net-f"
    smallest: ClassVar[int] = 28

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.fields = checked(shape, classes, mean, std)
        self.normalise = Normalise(self.fields["mean"], self.fields["std"])
        self.pad = padding(shape, self.smallest)
        height, width = ((side // 2 - 4) // 2 - 4 for side in padded(shape, self.smallest))
        self.features = nn.Sequential(
            *(nn.Conv2d(shape[0], 64, 8, stride=2, padding=3), nn.ReLU()),
            *(nn.Conv2d(64, 128, 6, stride=2), nn.ReLU()),
            *(nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Flatten()),
        )
        self.output = nn.Linear(128 * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(self.pad(x))))
        return logits
