"""Feature squeezing: reject what a network names otherwise once it is squeezed."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.classifier import device_of
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.detection import alarmed
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import judged
from bezoar.guards.protocol import Guard
from bezoar.models import (
    BitDepth,
    Disagreement,
    MedianFilter,
    NonLocalMeans,
    Squeezed,
)
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class Squeezing(Guard):
    r"""Compare the answer to an image with those to squeezed versions of it; reject what differs.

    .. math::
        \max_k\; \bigl\lVert \mathrm{softmax} f(x) - \mathrm{softmax} f(s_k(x)) \bigr\rVert_1 > \tau

    with f the classifier and :math:`s_k` fewer bits a value, a median filter and, on photographs,
    non-local means: the joint detector of arXiv:1704.01155, section 5. The classes stay those of
    the classifier. The threshold is the lowest that rejects at most a share ``fpr`` of the clean
    validation images; nothing else is learnt. See ``models.squeezed``.

    The defaults are those of the paper for MNIST; for CIFAR-10 it takes ``bits=5`` and
    ``strength=2/255``.

    Cost: a pass for each squeezer and one for the image itself.

    Args:
        bits: of each channel, 1 to 16.
        size: side of the window of the median, in pixels.
        strength: of non-local means, in pixel units of [0, 1]; 0 leaves them out.
        search: side of their search window, in pixels, odd.
        patch: side of their patches, in pixels, odd.
        fpr: share of the clean images that may be rejected, in [0, 1).
        images: on how many validation images the threshold is set, the first of the split; 0 is
            all.
    """

    bits: int = 1
    size: int = 2
    strength: float = 0.0
    search: int = 13
    patch: int = 3
    fpr: float = 0.05
    images: int = 0

    def __post_init__(self) -> None:
        checks.in_range("fpr", self.fpr, 0, 1)
        checks.at_least("images", self.images, 0)
        BitDepth(bits=self.bits)
        MedianFilter(size=self.size)
        self._third()

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        whole = Squeezed(
            network=deepcopy(classifier).requires_grad_(False),
            bit_depth=BitDepth(bits=self.bits),
            median=MedianFilter(size=self.size),
            non_local_means=self._third(),
            distance=Disagreement(),
        )
        whole.to(device_of(classifier)).eval()
        meter = Meter()
        alarmed(whole, evidence.validation.at_most(self.images), self.fpr, whole.passes, meter)
        return judged(whole, evidence, self.images, meter)

    def _third(self) -> NonLocalMeans | None:
        if self.strength == 0:
            return None
        sizes = {"search": self.search, "patch": self.patch}
        return NonLocalMeans(**sizes, strength=self.strength)
