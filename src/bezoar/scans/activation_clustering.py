"""Activation clustering: poison makes a small cluster of its own among the features of a class."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from bezoar import checks
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.scans.protocol import DataScan, Finding
from bezoar.scans.suspects import (
    COMPARED,
    Verdict,
    Watch,
    by_class,
    compared,
    components,
    finding,
    halved,
    indistinct,
    leaning,
    looked_at,
)
from bezoar.seeds import derive

MEMORY = 128  # MiB of distances that are held at once


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(DataScan):
    r"""Split the features of each class in two; a small half that stands well apart is poison.

    .. math::
        s_k = \frac1n \sum_i \frac{b_i - a_i}{\max(a_i, b_i)}

    with a and b the mean distances of image i to its own cluster of the 2-means of class k and to
    the other one, in the first principal components, each scaled to variance 1. Paper:
    arXiv:1811.03728, which takes independent components; they are the same up to a rotation, which
    neither k-means nor distances see.

    A class is suspicious where its smaller cluster is below ``share`` and s above ``silhouette``,
    as in the paper. The null of these is a normal distribution: it falls into halves of about the
    same size, with s near 0.08 in ten dimensions. Features of healthy data are not normal and often
    have a small cluster too. So the score of a suspicious class is the anomaly index of its s among
    all classes, of any other class 0, and above ``threshold`` it is accused. The second null is
    that s is spread alike in all classes; poison in all of them does not stand out.

    Of an accused class the smaller cluster is flagged. The score of an image is how much nearer it
    lies to the smaller cluster than to the other, in squared distances; see ``suspects.leaning``.
    Trusted images are not looked at.

    Cost: one forward pass an image, and :math:`n^2` distances for each class.

    Args:
        components: how many principal components are kept.
        share: of a class, below which the smaller cluster is suspicious, in [0, 0.5].
        silhouette: above which a class is suspicious, in [-1, 1]; the paper has 0.1 to 0.15.
        threshold: anomaly index above which a suspicious class is accused.
        least: a class of fewer images is left out. Of few, some stand apart by chance.
    """

    components: int = 10
    share: float = 0.35
    silhouette: float = 0.15
    threshold: float = 7.39
    least: int = 50

    def __post_init__(self) -> None:
        checks.at_least("components", self.components, 1)
        checks.in_range("share", self.share, 0, 0.5)
        checks.in_range("silhouette", self.silhouette, -1, 1)
        checks.in_range("threshold", self.threshold, 0)
        checks.at_least("least", self.least, 3)

    def __call__(
        self,
        classifier: nn.Module,
        suspects: ImageSet,
        trusted: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        members = by_class(suspects, self.least, COMPARED)
        watch = Watch(parts=1 + len(members), on_step=on_step)
        h = looked_at(classifier, suspects, watch)
        verdicts = {}
        for k, at in members.items():
            verdicts[k] = self._verdict(h[at], at, derive(seed, "activation clustering", k))
            watch.step()
        # Halves that are too even or too near are no poison, however the class compares.
        scored = {
            k: verdict if self._suspicious(verdicts[k]) else replace(verdict, score=0.0)
            for k, verdict in compared(verdicts).items()
        }
        return finding(scored, suspects, threshold=self.threshold, meter=watch.meter)

    def _verdict(self, h: Tensor, at: Tensor, seed: int) -> Verdict:
        scores, deviations = components(h, self.components)
        if not len(deviations):
            return indistinct(at)
        points = scores / deviations
        half = halved(points, seed)
        smaller = half if half.sum() <= (~half).sum() else ~half
        score, rows = silhouette(points, smaller), leaning(points, smaller)
        return Verdict(at=at, score=score, rows=rows, marked=smaller)

    def _suspicious(self, verdict: Verdict) -> bool:
        share = verdict.marked.double().mean().item()
        return share < self.share and verdict.score > self.silhouette


def silhouette(points: Tensor, group: Tensor) -> float:
    """The mean silhouette of points ``(n, c)`` that are split in two by ``group``, in [-1, 1]."""
    from sklearn import config_context
    from sklearn.metrics import silhouette_score

    with config_context(working_memory=MEMORY):
        return float(silhouette_score(points.numpy(), group.numpy()))
