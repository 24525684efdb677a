"""Resize-pad: images are shrunk and moved at random before they are classified."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.defence import Defended, Evidence
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import standing
from bezoar.guards.protocol import Guard
from bezoar.models import Resized
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class ResizePad(Guard):
    r"""Shrink each image to a random size and pad it at random, in front of a classifier.

    .. math::
        g(x) = f\bigl(\mathrm{pad}(\mathrm{resize}(x))\bigr)

    with sizes and places drawn anew for each image and pass, see ``models.Resized``. Paper:
    arXiv:1711.01991, about an attacker who does not know the draws. One who averages over them
    gets through (arXiv:1802.00420, section 5.3.2), and so do the attacks here. Nothing is learnt.
    Cost: 20 passes a validation image.

    Args:
        low: smallest height as a share of the image's, in (0, 1].
        high: largest height, in [low, 1].
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    low: float = 0.9
    high: float = 1.0
    images: int = 1000

    def __post_init__(self) -> None:
        Resized(low=self.low, high=self.high)  # refuses what are no shares
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
        purifier = Resized(low=self.low, high=self.high)
        return standing(purifier, classifier, evidence, self.images)
