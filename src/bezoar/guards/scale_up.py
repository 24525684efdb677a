"""SCALE-UP: reject what keeps its class when all its pixels are multiplied."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.oracle import DRAWS
from bezoar.classifier import device_of, predict, random_modules
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence
from bezoar.detection import alarmed, scores
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import judged
from bezoar.guards.protocol import Guard
from bezoar.models import Constancy
from bezoar.models import ScaleUp as Network
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class ScaleUp(Guard):
    r"""Multiply an image by 3, 5, 7, ...; reject it where its class stays.

    .. math::
        \frac{S(x) - \mu_c}{\sigma_c} > \tau, \qquad
        S(x) = \frac{1}{|F|} \sum_{n \in F} \bigl[\arg\max f(\mathrm{clip}(n x)) = c\bigr], \quad
        c = \arg\max f(x), \quad F = \{3, 5, \dots\}

    with f the classifier, and mean and deviation those of S over the clean validation images that f
    takes for class c (arXiv:2302.03251). The classes stay those of the classifier. The threshold is
    the lowest that rejects at most a share ``fpr`` of the clean validation images. See
    ``models.scale_up``.

    A class that is said of fewer than two validation images has mean and deviation of all; no
    deviation is taken for smaller than half a step of S.

    Cost: a pass for each factor and one for the image itself; on the validation images twice that,
    and a pass for their classes.

    Args:
        largest: the last of the factors 3, 5, 7, ..., an odd number from 3.
        by_class: whether to standardise; without it the score is S.
        fpr: share of the clean images that may be rejected, in [0, 1].
        images: on how many validation images mean, deviation and threshold are set, the first of
            the split; 0 is all.
    """

    largest: int = 11
    by_class: bool = True
    fpr: float = 0.05
    images: int = 0

    def __post_init__(self) -> None:
        checks.at_least("largest", self.largest, 3)
        if self.largest % 2 == 0:
            raise ValueError(f"largest={self.largest!r}: expected an odd number")
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
        clean, meter = evidence.validation.at_most(self.images), Meter()
        whole = Network(
            network=deepcopy(classifier).requires_grad_(False),
            constancy=Constancy(),
            classes=len(clean.classes),
            factors=range(3, self.largest + 1, 2),
        )
        whole.to(device_of(classifier)).eval()
        if self.by_class:
            _standardise(whole, clean, meter)
        alarmed(whole, clean, self.fpr, whole.passes, meter)
        return judged(whole, evidence, self.images, meter)


def _standardise(whole: Network, images: ImageSet, meter: Meter) -> None:
    """Set mean and deviation of each class, in place; until then the score is S."""
    begun = time.monotonic()
    x, _ = images.batch(slice(None))
    draws = DRAWS if random_modules(whole) else 1
    mean, std = moments(
        scores(whole, x, draws=draws),
        predict(whole, x, draws=draws).argmax(dim=1),
        len(whole.mean),
        least=0.5 / (whole.passes - 1),
    )
    whole.mean.copy_(mean)
    whole.std.copy_(std)
    meter.forward += (whole.passes + 1) * draws * len(x)
    meter.seconds += time.monotonic() - begun


def moments(values: Tensor, said: Tensor, classes: int, *, least: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the values of each class, ``(classes,)`` each.

    Args:
        values: one an image, ``(N,)``.
        said: class of each image, ``(N,)`` int64.
        classes: how many there are; one of fewer than two images has what all images have.
        least: no deviation is below it.
    """
    groups = [values[said == k] for k in range(classes)]
    groups = [group if len(group) > 1 else values for group in groups]
    mean = torch.stack([group.mean() for group in groups])
    std = torch.stack([group.std(correction=0) for group in groups])
    return mean, std.clamp(min=least)
