"""Fewer bits a value in front of a classifier."""

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
class BitDepth(Guard):
    r"""Round every value to one of :math:`2^b` levels before the classifier sees it.

    See ``models.squeezers.BitDepth``. Nothing is learnt. The paper (arXiv:1704.01155, section 3.1)
    takes 1 bit for MNIST and 4 or 5 for colour images. Attacks see the identity in place of its
    gradient, which is zero. Cost: none beside the classifier's own.

    Args:
        bits: b, of each channel, 1 to 16.
        images: how many validation images the clean accuracy is measured on, the first of the
            split; 0 is all.
    """

    bits: int = 1
    images: int = 1000

    def __post_init__(self) -> None:
        squeezers.BitDepth(bits=self.bits)
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
        purifier = squeezers.BitDepth(bits=self.bits)
        return standing(purifier, classifier, evidence, self.images)
