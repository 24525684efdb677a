"""SIG: vertical stripes on images that keep their label."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.triggers.protocol import Trigger


@dataclass(frozen=True, kw_only=True)
class SIG(Trigger):
    r"""Add a sine along the rows.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}(x + v), \qquad v_{cij} = \Delta \sin(2 \pi j f / W)

    with j the column from 0. Only images of the target class are stamped, and all labels stay
    true. Paper: arXiv:1902.11237, section 3.

    Args:
        delta: height of the wave, in pixel units of [0, 1].
        frequency: waves f on the width of an image; it may not be so high that pixels miss them.
    """

    delta: float = 40 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        checks.in_range("delta", self.delta, 1 / 255, 1)
        checks.in_range("frequency", self.frequency, 0)

    @property
    def clean_label(self) -> bool:
        return True

    def stamp(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if not 0 < self.frequency < width / 2:
            found = f"frequency={self.frequency:g} on images {width} pixels wide"
            raise ValueError(f"{found}: expected above 0 and below half the width")
        phase = 2 * math.pi * self.frequency / width * torch.arange(width, dtype=torch.float64)
        return (x + (self.delta * phase.sin()).to(x)).clamp(0, 1)
