"""STRIP: reject what stays of its class under all sorts of clean images."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from bezoar import checks
from bezoar.classifier import device_of
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.detection import alarmed
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import judged
from bezoar.guards.protocol import Guard
from bezoar.models import STRIP as Network
from bezoar.models import Certainty
from bezoar.seeds import generator
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class STRIP(Guard):
    r"""Put clean images on an image; reject it where the classifier stays sure.

    .. math::
        \ln K - \frac1N \sum_{j=1}^{N} H\bigl(\mathrm{softmax} f(\mathrm{clip}(a x + b\, o_j))\bigr)
        > \tau

    with f the classifier, H the entropy and :math:`o_j` clean images: a trigger that outlives them
    leaves little doubt (arXiv:1902.06531). The classes stay those of the classifier. The
    :math:`o_j` are validation images that the seed chooses once, and the same for every image. The
    threshold is the lowest that rejects at most a share ``fpr`` of the other validation images;
    nothing else is learnt. See ``models.strip``.

    Cost: ``overlays`` passes for a score, and one for the class. A classifier that gives all images
    the same answer gives them the same score, and none is rejected.

    Args:
        overlays: N, how many clean images.
        own: a, weight of the image, at least 0.
        other: b, weight of the clean image, at least 0.
        fpr: share of the clean images that may be rejected, in [0, 1].
        images: on how many validation images the threshold is set, the first of those that are no
            overlays; 0 is all.
    """

    overlays: int = 64
    own: float = 1.0
    other: float = 0.5
    fpr: float = 0.05
    images: int = 0

    def __post_init__(self) -> None:
        checks.at_least("overlays", self.overlays, 1)
        checks.in_range("own", self.own, 0)
        checks.in_range("other", self.other, 0)
        checks.in_range("fpr", self.fpr, 0, 1)
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
        held = evidence.validation
        if self.overlays >= len(held):
            found = f"overlays={self.overlays} of the {len(held)} images of {held.name}"
            raise ValueError(f"{found}: expected fewer; the threshold is set on the others")
        # An image under itself leaves less doubt than any: none is both overlay and judged.
        chosen = torch.randperm(len(held), generator=generator(seed, "strip"))[: self.overlays]
        whole = Network(
            network=deepcopy(classifier).requires_grad_(False),
            certainty=Certainty(),
            shape=held.shape,
            count=self.overlays,
            own=self.own,
            other=self.other,
        )
        whole.overlays.copy_(held.batch(chosen)[0])
        whole.to(device_of(classifier)).eval()
        meter, others = Meter(), held.without(chosen).at_most(self.images)
        alarmed(whole, others, self.fpr, whole.passes, meter)
        return judged(whole, evidence, self.images, meter)
