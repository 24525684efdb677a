"""Six small classifiers, A to F, on which Defense-GAN was measured (arXiv:1805.06605)."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import Normalise
from bezoar.models.fields import Shape, checked
from bezoar.models.padding import padded, padding


class SmallNet(nn.Module):
    """One of the classifiers A to F of arXiv:1805.06605, by its letter.

    A
        Convolutions 5x5 of 64 maps with a border, 5x5 of 64 maps with stride 2, dropout 0.25, 128
        units, dropout 0.5. C has 3x3 of 128 maps in place of the first.
    B
        Dropout 0.2 of the pixels, convolutions 8x8 of 64 maps with a border and stride 2, 6x6 of
        128 maps with stride 2, 5x5 of 128 maps, dropout 0.5. F is B without dropout.
    D
        Two layers of 200 units, dropout 0.5 between them. E is D without dropout.

    Images that are too small for the layers are padded with black, inside the network. PuVAE
    (arXiv:1903.00585) has classifiers A to D of its own; its A is this one.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        mean: subtracted from each channel, in pixel units of [0, 1]; ``None`` is 0.
        std: each channel is divided by it, above 0; ``None`` is 1.
        letter: ``a`` to ``f``.

    Raises:
        ValueError: no such letter, sizes below 1 or absurdly large, or a mean or std that does not
            fit them.
    """

    kind: ClassVar[str] = "small-net"

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        letter: str = "a",
    ) -> None:
        super().__init__()
        checks.known("letter", letter, LETTERS)
        fields = checked(shape, classes, mean, std)
        self.fields = {**fields, "letter": letter}
        self.normalise = Normalise(fields["mean"], fields["std"])
        smallest, layers = LETTERS[letter]
        self.pad = padding(shape, smallest)
        features, units = layers(shape[0], *padded(shape, smallest))
        self.features = nn.Sequential(*features)
        self.output = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.output(self.features(self.normalise(self.pad(x))))
        return logits


# Layers up to the last one, and how many numbers they give, from channels, height and width.
Layers = Callable[[int, int, int], tuple[list[nn.Module], int]]


def _wide(first: int, maps: int) -> Layers:
    """A and C: ``maps`` maps with a kernel of ``first`` that keeps the size, then 64 maps 5x5."""

    def layers(channels: int, height: int, width: int) -> tuple[list[nn.Module], int]:
        left = 64 * ((height - 3) // 2) * ((width - 3) // 2)
        return [
            *(nn.Conv2d(channels, maps, first, padding=first // 2), nn.ReLU()),
            *(nn.Conv2d(maps, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25)),
            *(nn.Linear(left, 128), nn.ReLU(), nn.Dropout(0.5)),
        ], 128

    return layers


def _deep(channels: int, height: int, width: int) -> tuple[list[nn.Module], int]:
    """B."""
    rows, columns = ((side // 2 - 4) // 2 - 4 for side in (height, width))
    return [
        nn.Dropout(0.2),
        *(nn.Conv2d(channels, 64, 8, stride=2, padding=3), nn.ReLU()),
        *(nn.Conv2d(64, 128, 6, stride=2), nn.ReLU()),
        *(nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()),
    ], 128 * rows * columns


def _dense(channels: int, height: int, width: int) -> tuple[list[nn.Module], int]:
    """D."""
    return [
        *(nn.Flatten(), nn.Linear(channels * height * width, 200), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(200, 200), nn.ReLU()),
    ], 200


def _without_dropout(dropping: Layers) -> Layers:
    def layers(channels: int, height: int, width: int) -> tuple[list[nn.Module], int]:
        features, units = dropping(channels, height, width)
        return [layer for layer in features if not isinstance(layer, nn.Dropout)], units

    return layers


# By letter: the smallest side that the layers take, and the layers.
LETTERS: Mapping[str, tuple[int, Layers]] = MappingProxyType(
    {
        "a": (5, _wide(5, 64)),
        "b": (28, _deep),
        "c": (5, _wide(3, 128)),
        "d": (1, _dense),
        "e": (1, _without_dropout(_dense)),
        "f": (28, _without_dropout(_deep)),
    }
)
