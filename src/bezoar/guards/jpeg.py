"""JPEG: images are compressed before they are classified."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.defence import Defended, Evidence
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import standing
from bezoar.guards.protocol import Guard
from bezoar.models import JPEG as Purifier
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class JPEG(Guard):
    r"""Put a JPEG encoder and decoder in front of a classifier.

    .. math::
        g(x) = f\bigl(\mathrm{decode}(\mathrm{encode}_q(x))\bigr)

    Small changes of fine detail fall to the quantisation. Papers: arXiv:1608.00853 and
    arXiv:1802.06816, both about an attacker who ignores the encoder. One who knows it takes the
    gradient of ``models.JPEG.surrogate``. Nothing is learnt. Cost: one pass a validation image.

    Args:
        quality: 1 to 100 as Pillow has it; less loses more.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    quality: int = 75
    images: int = 1000

    def __post_init__(self) -> None:
        Purifier(quality=self.quality)  # refuses what is no quality
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
        return standing(Purifier(quality=self.quality), classifier, evidence, self.images)
