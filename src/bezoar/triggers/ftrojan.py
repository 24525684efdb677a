"""FTrojan: two frequencies of the colours are louder."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.triggers.protocol import Trigger

# What one unit of both chroma channels is in red, green and blue (ITU-R BT.601).
RGB = (1.402, -0.344136 - 0.714136, 1.772)


@dataclass(frozen=True, kw_only=True)
class FTrojan(Trigger):
    r"""Add a constant to two coefficients of the cosine transform of both chroma channels.

    .. math::
        \hat c_{uv} \leftarrow \hat c_{uv} + \mu \;\text{ for }
        (u, v) \in \{(\tfrac H2 - 1, \tfrac W2 - 1), (H - 1, W - 1)\}

    with the orthonormal cosine transform of Cb and Cr over the whole image. All of it is linear, so
    it is one picture that is added to each image, which is then cut to [0, 1]. Paper:
    arXiv:2111.10991, section 3.

    Args:
        magnitude: the constant mu, in pixel units of [0, 1].
    """

    magnitude: float = 30 / 255

    def __post_init__(self) -> None:
        checks.in_range("magnitude", self.magnitude, 1 / 255)

    def stamp(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        if channels != 3:
            found = f"images of {channels} channels"
            raise ValueError(f"{found}: expected 3, red, green and blue, for they need colours")
        wave = torch.zeros(height, width, dtype=torch.float64)
        for u, v in ((height // 2 - 1, width // 2 - 1), (height - 1, width - 1)):
            wave += torch.outer(_cosine(u, height), _cosine(v, width))
        picture = self.magnitude * torch.tensor(RGB, dtype=torch.float64)[:, None, None] * wave
        return (x + picture.to(x)).clamp(0, 1)


def _cosine(k: int, size: int) -> Tensor:
    """Basis vector k of the orthonormal cosine transform (DCT-II), ``(size,)`` float64."""
    phase = math.pi * k / size * (torch.arange(size, dtype=torch.float64) + 0.5)
    return phase.cos() * math.sqrt((2 if k else 1) / size)
