"""A median filter in front of a classifier: local smoothing."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.defence import Defended, Evidence
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import standing
from bezoar.guards.protocol import Guard
from bezoar.models.squeezers import MedianFilter
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class Median(Guard):
    """Let the classifier see, for every value, the median of the window around it.

    See ``models.squeezers.MedianFilter``. Nothing is learnt. The paper (arXiv:1704.01155, section
    3.2) takes windows of 2x2 and 3x3. Attacks have its exact gradient. Cost: a sort of the window
    for every value.

    Args:
        size: side of the window, in pixels.
        images: how many validation images the clean accuracy is measured on, the first of the
            split; 0 is all.
    """

    size: int = 2
    images: int = 1000

    def __post_init__(self) -> None:
        MedianFilter(size=self.size)
        checks.at_least("images", self.images, 0)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        return standing(MedianFilter(size=self.size), classifier, evidence, self.images)
