"""The convolutional auto-encoder that stands in front of a classifier (arXiv:2312.03520)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.models.fields import LONGEST, Shape, checked
from bezoar.seeds import hashed_normal

SMALLEST = 16  # of the sides, after padding to a multiple of 8
# Where maps of one size stand in the decoder and in the encoder, for the links past the code.
SKIPS = {7: 4, 10: 1}


class Autoencoder(nn.Module):
    r"""Images to a short code, noise on the code, and back to images.

    .. math::
        \hat x = D\bigl(E(x) + \sigma n\bigr), \qquad n \sim N(0, I)

    Three convolutions of stride 2 with 8, 16 and 32 maps and two linear layers lead to the code,
    the mirror image of them back; GELU between, batch normalisation after the 16 maps and, on the
    way back, after the 8, a sigmoid at the end. At 1x32x32 and a code of 10 these are the 88,667
    parameters of the paper. Sides that are no multiple of 8 are padded with black and cut again, so
    28x28 is 32x32 inside.

    The noise is declared (``CodeNoise``), so the attacks average over it.

    With ``skips`` the maps of the encoder are added to those of their size in the decoder, so that
    what a code cannot hold has another way (the links of arXiv:1505.04597, added and not appended:
    as many parameters as without).

    Args:
        shape: channels, height and width of an image.
        code: numbers in the code.
        sigma: deviation of the noise on the code; 0 makes the purifier deterministic.
        skips: whether maps go past the code too.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a negative sigma.
    """

    kind: ClassVar[str] = "autoencoder"

    def __init__(
        self,
        *,
        shape: Shape = (1, 32, 32),
        code: int = 10,
        sigma: float = 1.0,
        skips: bool = False,
    ) -> None:
        super().__init__()
        sides = checked(shape, 2, None, None)["shape"]
        if type(code) is not int or not 1 <= code <= LONGEST:
            raise ValueError(f"code={code!r}: expected an integer from 1 to {LONGEST}")
        checks.in_range("sigma", sigma, 0)
        if type(skips) is not bool:
            raise ValueError(f"skips={skips!r}: expected true or false")
        self.fields: dict[str, Any] = {"shape": sides, "code": code, "sigma": float(sigma)}
        self.fields |= {"skips": True} if skips else {}
        self.skips = SKIPS if skips else {}
        inside = inner(shape)
        self.enlarge, self.cut = borders(shape)
        self.encoder = encoder(sides[0], inside, code)
        self.decoder = decoder(sides[0], inside, code)
        self.noise = CodeNoise(sigma) if sigma else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape, in (0, 1)."""
        made: Tensor = self.enlarge(x)
        maps = []
        for layer in self.encoder:
            made = layer(made)
            maps.append(made)
        made = self.noise(made)
        for place, layer in enumerate(self.decoder):
            made = layer(made)
            if place in self.skips:
                made = made + maps[self.skips[place]]
        cut: Tensor = self.cut(made)
        return cut


class CodeNoise(nn.Module):
    """Gaussian noise on a code, in training and afterwards.

    Args:
        sigma: its deviation.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self._keys: Tensor | None = None

    def reseed(self, keys: Tensor | None) -> None:
        """Let the noise that follows depend on ``keys``, ``(N,)`` int64, alone."""
        self._keys = keys

    def forward(self, code: Tensor) -> Tensor:
        """Codes ``(N, Z)`` to codes of the same shape."""
        if self._keys is None:
            return code + self.sigma * torch.randn_like(code)
        noise = hashed_normal(self._keys, torch.zeros_like(self._keys), code.shape[1:])
        return code + self.sigma * noise.to(code)


def inner(shape: Shape) -> tuple[int, int]:
    """Height and width that the layers work on: multiples of 8."""
    height, width = (max(SMALLEST, -(-side // 8) * 8) for side in shape[1:])
    return height, width


def encoder(channels: int, sides: tuple[int, int], outputs: int) -> nn.Sequential:
    """Images ``(N, channels, *sides)`` to ``(N, outputs)``."""
    rows, columns = (side // 8 - 1 for side in sides)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * rows * columns, 128),
        nn.GELU(),
        nn.Linear(128, outputs),
    )


def decoder(channels: int, sides: tuple[int, int], code: int) -> nn.Sequential:
    """Codes ``(N, code)`` to images ``(N, channels, *sides)`` in (0, 1)."""
    rows, columns = (side // 8 - 1 for side in sides)
    return nn.Sequential(
        nn.Linear(code, 128),
        nn.GELU(),
        nn.Linear(128, 32 * rows * columns),
        nn.GELU(),
        nn.Unflatten(1, (32, rows, columns)),
        nn.ConvTranspose2d(32, 16, 3, stride=2, output_padding=1),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.ConvTranspose2d(8, channels, 3, stride=2, padding=1, output_padding=1),
        nn.Sigmoid(),
    )


def borders(shape: Shape) -> tuple[nn.Module, nn.Module]:
    """Put black around images, up to the inner sides, and take it away again."""
    down, right = (after - side for after, side in zip(inner(shape), shape[1:], strict=True))
    if not down and not right:
        return nn.Identity(), nn.Identity()
    around = (right // 2, right - right // 2, down // 2, down - down // 2)
    left, other, top, bottom = (-width for width in around)
    return nn.ZeroPad2d(around), nn.ZeroPad2d((left, other, top, bottom))
