"""SPECTRE: spectral signatures of a class whose clean part is whitened, by robust statistics."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.scans.protocol import DataScan, Finding
from bezoar.scans.spectral_signatures import MARGIN, highest, removed
from bezoar.scans.suspects import (
    COMPARED,
    Verdict,
    Watch,
    by_class,
    compared,
    components,
    finding,
    looked_at,
)

EACH = 10  # images for each dimension, without which a robust covariance means nothing
KEPT = 0.5  # of a class, the densest part, from which the clean part is found
NEAR = 0.975  # of normal points, how many count as near
ROUNDS = 100  # of the search for that part at most; few are needed


@dataclass(frozen=True, kw_only=True)
class Spectre(DataScan):
    r"""Whiten each class by its densest part, and remove what lies far out along what remains.

    .. math::
        \tau_i = \frac{w_i' Q w_i}{\mathrm{tr}\, Q}, \qquad
        Q = \exp\Bigl(\frac{\alpha (S - I)}{\lVert S \rVert_2 - 1}\Bigr), \qquad
        w_i = \Sigma^{-1/2} (U_c' h_i - m)

    with :math:`U_c` the top c right singular vectors of the class, m and :math:`\Sigma` a robust
    mean and covariance of what they keep (``whitened``), and S the covariance of all w. Of c = 1,
    2, 4 and so on up to ``components`` that with the highest mean tau is taken. Paper:
    arXiv:2104.11315, whose robust covariance is another.

    The images with the highest tau are flagged, a share :math:`1.5 e` of *every* class, whether the
    scan accuses or not, as in ``SpectralSignatures``; of healthy data they are all false. What
    ``score`` and ``threshold`` say is ours: the anomaly index among the classes of the logarithm of
    mean tau, which is near 0 for normal features. The null is that it is spread alike in all
    classes; a class that varies less evenly than others stands out too, poison in all does not.

    The score of an image is tau, in units of the variance of the densest part of its class. Trusted
    images are not looked at.

    Cost: one forward pass an image, one singular value decomposition and a few robust covariances
    for each class.

    Args:
        rate: the share e of a class that is assumed to be poison at most, in [0, 2/3].
        components: how many singular vectors are kept at most, and at most a tenth of the images.
        alpha: how much tau follows the direction in which S is largest; 0 is plain distance.
        threshold: anomaly index above which a class is accused.
        least: a class of fewer images is left out, at least 10.
    """

    rate: float = 0.1
    components: int = 16
    alpha: float = 4.0
    threshold: float = 7.39
    least: int = 50

    def __post_init__(self) -> None:
        checks.in_range("rate", self.rate, 0, 2 / 3)
        checks.at_least("components", self.components, 1)
        checks.in_range("alpha", self.alpha, 0)
        checks.in_range("threshold", self.threshold, 0)
        checks.at_least("least", self.least, EACH)

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
            rows = self._rows(h[at])
            level = rows.mean().clamp_min(1e-12).log().item()
            marked = highest(rows, MARGIN * self.rate)
            verdicts[k] = Verdict(at=at, score=level, rows=rows, marked=marked)
            watch.step()
        found = finding(compared(verdicts), suspects, threshold=self.threshold, meter=watch.meter)
        return replace(found, flagged=removed(verdicts, len(suspects)))

    def _rows(self, h: Tensor) -> Tensor:
        scores, deviations = components(h, min(self.components, len(h) // EACH))
        counts = [2**i for i in range(len(deviations).bit_length())]
        tried = [que(whitened(scores[:, :c] / deviations[:c]), self.alpha) for c in counts]
        # Where all images look the same no one is farther out than the others.
        return max(tried, key=lambda rows: float(rows.mean()), default=torch.ones(len(h)))


def whitened(points: Tensor) -> Tensor:
    """Points ``(n, c)`` moved and scaled so that their densest part is that of N(0, I).

    The minimum covariance determinant (Rousseeuw and van Driessen, 1999): the half that is nearest
    to the median in each coordinate, then the half that is nearest by mean and covariance of the
    half, until it stays the same; at last mean and covariance of all that are near by these.
    """
    from scipy.stats import chi2

    count, size = round(KEPT * len(points)), points.shape[1]
    apart = points - points.quantile(0.5, dim=0)
    kept = _nearest(apart / apart.abs().quantile(0.5, dim=0).clamp_min(1e-6), count)
    for _ in range(ROUNDS):
        before, kept = kept, _nearest(_standard(points, kept), count)
        if torch.equal(kept, before):
            break
    w = _standard(points, kept)
    squares = w.square().sum(dim=1)
    # The half varies less than the whole of a normal distribution, and so does what is near.
    squares = squares * (chi2.ppf(0.5, size) / squares.quantile(0.5).clamp_min(1e-12))
    limit = chi2.ppf(NEAR, size)
    near = (squares <= limit).nonzero().squeeze(1)
    factor = float(chi2.cdf(limit, size + 2)) / NEAR
    return _standard(points, near) * math.sqrt(factor)


def _standard(points: Tensor, kept: Tensor) -> Tensor:
    """All points, where those that are kept have mean 0 and covariance I."""
    # Where these do not vary along some direction, it must not count infinitely.
    least = 1e-6 * torch.eye(points.shape[1], dtype=points.dtype)
    variance, axes = torch.linalg.eigh(_covariance(points[kept]) + least)
    moved = (points - points[kept].mean(dim=0)) @ axes
    standard: Tensor = moved / variance.sqrt()
    return standard


def _nearest(w: Tensor, count: int) -> Tensor:
    return w.square().sum(dim=1).argsort(stable=True)[:count].sort().values


def _covariance(points: Tensor) -> Tensor:
    size = points.shape[1]
    return torch.cov(points.T).reshape(size, size)


def que(points: Tensor, alpha: float) -> Tensor:
    """The quantum entropy scores tau of whitened points ``(n, c)``, ``(n,)``."""
    spread, axes = torch.linalg.eigh(_covariance(points))
    # Where no direction is wider than that of clean images all count alike.
    excess = (spread - 1) / (spread[-1] - 1) if spread[-1] > 1 + 1e-6 else torch.zeros_like(spread)
    weight = (alpha * (excess - excess.max())).exp()
    rows: Tensor = ((points @ axes).square() * weight).sum(dim=1) / weight.sum()
    return rows
