"""Non-local means in front of a classifier: smoothing over what looks alike."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.defence import Defended, Evidence
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import standing
from bezoar.guards.protocol import Guard
from bezoar.models import squeezers
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class NonLocalMeans(Guard):
    """Let the classifier see, for every pixel, the mean of those whose surroundings look alike.

    See ``models.squeezers.NonLocalMeans``. Nothing is learnt. The defaults are the 13-3-4 of the
    paper (arXiv:1704.01155, section 3.2), whose strength is in units of 0 to 255. Attacks have its
    exact gradient. Cost: the square of ``search`` comparisons of the whole image.

    Args:
        search: side of the search window, in pixels, odd.
        patch: side of a patch, in pixels, odd.
        strength: in pixel units of [0, 1], above 0.
        images: how many validation images the clean accuracy is measured on, the first of the
            split; 0 is all.
    """

    search: int = 13
    patch: int = 3
    strength: float = 4 / 255
    images: int = 1000

    def __post_init__(self) -> None:
        self._purifier()
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
        return standing(self._purifier(), classifier, evidence, self.images)

    def _purifier(self) -> squeezers.NonLocalMeans:
        sizes = {"search": self.search, "patch": self.patch}
        return squeezers.NonLocalMeans(**sizes, strength=self.strength)
