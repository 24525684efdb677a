"""SCAn: a class that is a mixture of two groups, by the way in which clean classes vary."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
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
    finding,
    halved,
    indistinct,
    leaning,
    looked_at,
)
from bezoar.seeds import derive

ROUNDS = 100  # of the EM at most
LEAST = 1e-6  # of the variance of all, that of a group is taken for no smaller
SETTLED = 1e-5  # change of both covariances, as a share, at which it ends


@dataclass(frozen=True, kw_only=True)
class SCAn(DataScan):
    r"""Ask of each class whether two groups explain its features far better than one does.

    .. math::
        h = \mu_k + \varepsilon, \quad \mu_k \sim N(0, S_u),\; \varepsilon \sim N(0, S_e); \qquad
        J_k = \frac1n \sum_{i \in k} \lVert h_i - \bar h_k \rVert_F^2
              - \lVert h_i - \bar h_{g(i)} \rVert_F^2, \quad F = S_e^{-1}

    The two covariances come from the trusted images (``decompose``), the two groups g from 2-means
    in the distance that F gives. Paper: arXiv:1908.00686, sections 4.2 to 4.4.

    A class is accused where the anomaly index of J among the classes is above ``threshold``. The
    null is that J is spread alike in all classes; poison in one class makes it stand out, poison in
    all of them does not. Of an accused class the group is poison whose mean is farther from that of
    the trusted images of the class. The score of an image is how much nearer it lies to that group
    than to the other, in squared distances by F; see ``suspects.leaning``. Flagged is what is
    likelier by this score to be of that group (``upper``): poison, which comes from all classes,
    varies more than the images of one, so the border is not the middle, as it is in the paper.

    Cost: one forward pass an image of either set, one eigendecomposition of D x D a round of the
    EM, and the 2-means of each class.

    Args:
        ridge: added to the variance of each feature within a class, as a share of their mean. It
            keeps F finite, and lets a unit count that only poison makes vary.
        threshold: anomaly index above which a class is accused; :math:`e^2` in the paper.
        least: a class of fewer suspect images is left out, at least 2.
    """

    ridge: float = 0.01
    threshold: float = 7.39
    least: int = 10

    def __post_init__(self) -> None:
        checks.in_range("ridge", self.ridge, 1e-9)
        checks.in_range("threshold", self.threshold, 0)
        checks.at_least("least", self.least, 2)

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
        require_trusted(suspects, trusted, members)
        watch = Watch(parts=2 + len(members), on_step=on_step)
        clean, h = (looked_at(classifier, images, watch) for images in (trusted, suspects))
        centre = clean.mean(dim=0)
        clean, h = clean - centre, h - centre
        _, within = decompose(clean, trusted.labels, ridge=self.ridge)
        points, known = (scaled(part, within) for part in (h, clean))
        verdicts = {}
        for k, at in members.items():
            z, middle = points[at], known[trusted.labels == k].mean(dim=0)
            verdicts[k] = _verdict(z, middle, at, derive(seed, "scan", k))
            watch.step()
        return finding(compared(verdicts), suspects, threshold=self.threshold, meter=watch.meter)


def _verdict(z: Tensor, middle: Tensor, at: Tensor, seed: int) -> Verdict:
    if (z == z[0]).all():
        return indistinct(at)
    half = halved(z, seed)
    one, other = z[half].mean(dim=0), z[~half].mean(dim=0)
    farther = half if (one - middle).norm() > (other - middle).norm() else ~half
    share = half.double().mean()
    # What the split takes from the sum of squares, as it can be told from the two means.
    ratio = (share * (1 - share) * (one - other).square().sum()).item()
    rows = leaning(z, farther)
    return Verdict(at=at, score=ratio, rows=rows, marked=upper(rows, farther))


def upper(values: Tensor, group: Tensor) -> Tensor:
    """Which values ``(n,)`` are likelier of the upper of two normal distributions, ``(n,)`` bool.

    Mean, deviation and share of both are found by EM from a split in two.

    Args:
        values: not all the same.
        group: the upper of the two at first, ``(n,)`` bool, neither empty nor all.
    """
    from sklearn.mixture import GaussianMixture

    points = ((values - values.mean()) / values.std())[:, None]
    sides = [points[~group], points[group]]
    mixture = GaussianMixture(
        n_components=2,
        weights_init=[len(side) / len(points) for side in sides],
        means_init=[side.mean(dim=0).tolist() for side in sides],
        precisions_init=[[[1 / (LEAST + side.var(correction=0).item())]] for side in sides],
        reg_covar=LEAST,
        random_state=0,  # what it would draw are the starts that are given here
    ).fit(points.numpy())
    likelier = torch.from_numpy(mixture.predict(points.numpy())) == 1
    # Of two deviations the wider is likelier far below too; what lies there is no poison.
    return likelier & (points[:, 0] > float(mixture.means_[0, 0]))


def scaled(h: Tensor, within: Tensor) -> Tensor:
    """Features ``(N, D)`` in which the covariance within a class is I."""
    lower = torch.linalg.cholesky(within)
    points: Tensor = torch.linalg.solve_triangular(lower, h.T, upper=False).T
    return points.contiguous()


def require_trusted(suspects: ImageSet, trusted: ImageSet, members: dict[int, Tensor]) -> None:
    """Require trusted images of the suspects' shape and classes, one of each class looked at.

    Raises:
        ValueError: something else.
    """
    if (trusted.classes, trusted.shape) != (suspects.classes, suspects.shape):
        found = f"{trusted.name} of shape {trusted.shape} and {len(trusted.classes)} classes"
        raise ValueError(f"{found}: expected those of {suspects.name}")
    missing = [k for k in members if not (trusted.labels == k).any()]
    if missing:
        found = f"no image of class {trusted.classes[missing[0]]!r} in {trusted.name}"
        raise ValueError(f"{found}: expected one at least of each class that is scanned")


def decompose(h: Tensor, labels: Tensor, *, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Covariance of the means of classes and that within classes, ``(D, D)`` each, by EM.

    .. math::
        \mu_k &\leftarrow S_u (n_k S_u + S_e)^{-1} \textstyle\sum_{i \in k} h_i, \qquad
        C_k = S_u (n_k S_u + S_e)^{-1} S_e \\
        S_u &\leftarrow \tfrac1K \textstyle\sum_k (\mu_k \mu_k' + C_k), \qquad
        S_e \leftarrow \tfrac1N \textstyle\sum_k \sum_{i \in k}
        \bigl((h_i - \mu_k)(h_i - \mu_k)' + C_k\bigr)

    In the basis in which both are diagonal every class is inverted at once, so a round costs one
    eigendecomposition, however many images and classes there are.

    Args:
        h: features, centred, ``(N, D)`` float64.
        labels: classes, ``(N,)`` int64.
        ridge: added to the variances within classes, as a share of their mean.
    """
    _, group, counts = labels.unique(return_inverse=True, return_counts=True)
    n = counts.to(h)[:, None]
    means = h.new_zeros(len(n), h.shape[1]).index_add_(0, group, h) / n
    apart = h - means[group]
    scatter = apart.T @ apart
    level = ridge * scatter.diagonal().mean().clamp_min(1e-12) + 1e-12
    scatter = scatter + level * torch.eye(h.shape[1], dtype=h.dtype)
    between, within = means.T @ means / len(n), scatter / len(h)
    for _ in range(ROUNDS):
        lower = torch.linalg.cholesky(within)
        half = torch.linalg.solve_triangular(lower, between, upper=False)
        inner = torch.linalg.solve_triangular(lower, half.T, upper=False)
        ratio, turned = torch.linalg.eigh((inner + inner.T) / 2)
        basis = lower @ turned  # S_e = B B', S_u = B diag(ratio) B'
        shrunk = ratio.clamp_min(0) / (n * ratio.clamp_min(0) + 1)  # (K, D), the C_k in this basis
        sums = torch.linalg.solve_triangular(lower, (n * means).T, upper=False).T @ turned
        mu = (sums * shrunk) @ basis.T
        gap = means - mu
        new_between = (mu.T @ mu + (basis * shrunk.sum(dim=0)) @ basis.T) / len(n)
        spread = gap.T @ (n * gap) + (basis * (n * shrunk).sum(dim=0)) @ basis.T
        new_within = (scatter + spread) / len(h)
        moved = max(_change(new_between, between), _change(new_within, within))
        between, within = new_between, new_within
        if moved < SETTLED:
            break
    return between, within


def _change(new: Tensor, old: Tensor) -> float:
    return float((new - old).norm() / old.norm().clamp_min(1e-12))
