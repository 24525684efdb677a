"""Whether a detector finds triggered images: against all clean ones, at every threshold.

Asked are all clean test images, those that are named wrongly among them, and all triggered ones of
which the attacker wants another class than the true one, whether they get there or not. Those that
do are looked at apart. So a detector gains nothing by images that are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bezoar import classifier as classifiers
from bezoar.audit import Row, estimate_row, rate_row
from bezoar.backdoors import Triggered
from bezoar.data.imageset import ImageSet
from bezoar.detection import Curve, Judged, judged, require, roc, threshold_of
from bezoar.results import Rate

FPRS = (0.05, 0.01)


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What a detector says of clean images and of triggered ones.

    Attributes:
        clean: all test images as they are.
        triggered: stamped ones; their true class is not the one that the attacker wants.
        wanted: that class, ``(M,)`` int64.
    """

    clean: Judged
    triggered: Judged
    wanted: Tensor

    @property
    def successful(self) -> Tensor:
        """Which triggered images are where the attacker wants them, ``(M,)`` bool."""
        return self.triggered.said == self.wanted

    @property
    def asr(self) -> Rate:
        """Share of the triggered images that are where the attacker wants, rejected or not."""
        return Rate(int(self.successful.sum()), len(self.wanted))

    @property
    def accepted(self) -> Rate:
        """Share of the triggered images that are where the attacker wants and not rejected."""
        passed = self.successful & ~self.triggered.rejected
        return Rate(int(passed.sum()), len(self.wanted))

    def curve(self, *, successful: bool = False) -> Curve | None:
        """The curve of all clean images and the triggered ones, or the successful of these.

        Nothing where none is successful.
        """
        scores = self._scores(successful)
        return roc(self.clean.score, scores) if len(scores) else None

    def caught(self, fpr: float | None = None, *, successful: bool = False) -> Rate | None:
        """Share of the triggered images, or of the successful ones, that are rejected.

        Args:
            fpr: at the lowest threshold that rejects at most this share of the clean images here;
                by default at that of the detector. The interval takes the threshold as given.
            successful: whether only the successful ones are looked at; nothing where none is.
        """
        scores = self._scores(successful)
        if fpr is None:
            rejected = self.triggered.rejected[self._rows(successful)]
        else:
            rejected = scores > threshold_of(self.clean.score, fpr)
        return Rate(int(rejected.sum()), len(scores)) if len(scores) else None

    def _rows(self, successful: bool) -> Tensor:
        return self.successful if successful else torch.ones_like(self.successful)

    def _scores(self, successful: bool) -> Tensor:
        return self.triggered.score[self._rows(successful)]


def measure(
    model: nn.Module,
    images: ImageSet,
    shown: Triggered,
    *,
    seed: int,
    clean: Judged | None = None,
) -> Suspicion:
    """Show a detector clean and triggered test images.

    Cost: a pass and a score an image; of a classifier that declares its randomness
    ``oracle.DRAWS`` of each.

    Args:
        model: a detector; not changed.
        images: clean test images, those of all classes.
        shown: what ``backdoors.triggered`` made of them.
        seed: names the noise of a random detector.
        clean: what it says of the clean ones, where ``detection.judged`` has been asked already.

    Raises:
        TypeError: no detector.
        ValueError: images that it does not take.
    """
    require(model)
    x, _ = images.batch(slice(None))
    classifiers.require(model, x[:8], len(images.classes))
    clean = clean or judged(model, x, images, seed=seed)
    stamped, _ = shown.images.batch(slice(None))
    return Suspicion(clean, judged(model, stamped, shown.images, seed=seed), shown.wanted)


def rows(
    found: Suspicion, model: nn.Module, *, seed: int, fprs: Sequence[float] = FPRS
) -> list[Row]:
    """The rows of a result table about a detector and a trigger.

    ``clean`` and ``false-alarms`` as in ``audit.detected``; ``asr`` and ``asr:accepted``, see
    ``Suspicion``. Of all triggered images, and with ``-successful`` of those where the attacker
    wants them: ``auc:triggered``, ``tpr@FPR:triggered`` at that share of the clean images, and
    ``tpr:triggered`` at the threshold of the detector.
    """
    case = getattr(model, "kind", "user")
    rates = {
        "clean": found.clean.right,
        "false-alarms": found.clean.alarms,
        "asr": found.asr,
        "asr:accepted": found.accepted,
    }
    table = [rate_row(case, seed, metric, rate) for metric, rate in rates.items()]
    for name, successful in (("triggered", False), ("triggered-successful", True)):
        if (curve := found.curve(successful=successful)) is not None:
            ends = (curve.low, curve.high)
            table.append(estimate_row(case, seed, f"auc:{name}", curve.auc, ends, curve.attacked))
        thresholds = {f"tpr@{fpr:g}:{name}": fpr for fpr in fprs}
        for metric, fpr in {**thresholds, f"tpr:{name}": None}.items():
            if (rate := found.caught(fpr, successful=successful)) is not None:
                table.append(rate_row(case, seed, metric, rate))
    return table
