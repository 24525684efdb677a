"""What the scans of data share: features by class, a split of a class in two, and the finding."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from bezoar.classifier import random_modules, require
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.features import features
from bezoar.fit import Progress
from bezoar.scans.protocol import Finding, anomaly
from bezoar.seeds import generator

CHUNK = 4096  # images that are held as float32 at once
STARTS = 100  # of k-means, of which the best is kept
ROUNDS = 300  # of k-means at most; few are needed
COMPARED = 3  # classes without which none stands out from the others


@dataclass(kw_only=True)
class Watch:
    """What a scan of data spends, and how far it is.

    Attributes:
        parts: how many parts the work has: sets of images that are looked at, and classes.
        on_step: told after each of them.
        meter: what was spent.
        done: parts that are done.
        begun: when, in seconds of the monotonic clock.
    """

    parts: int
    on_step: Callable[[Progress], None]
    meter: Meter = field(default_factory=Meter)
    done: int = 0
    begun: float = field(default_factory=time.monotonic)

    def step(self) -> None:
        """Say that a further part is done."""
        self.done += 1
        self.meter.seconds = time.monotonic() - self.begun
        self.on_step(Progress(0, 1, self.done, self.parts, 0.0))


def looked_at(classifier: nn.Module, images: ImageSet, watch: Watch) -> Tensor:
    """Features of all images, ``(N, D)`` float64.

    Cost: one forward pass an image; two passes to see whether the images fit, and two for each 4096
    of them to find the layer.

    Raises:
        ValueError: a classifier that draws noise, that does not take the images, that has no linear
            layer at its end, or that computes what is not finite.
    """
    if random_modules(classifier):
        found = f"{type(classifier).__name__} draws noise"
        raise ValueError(f"{found}: expected one whose features stay the same")
    probe, _ = images.batch(slice(2))
    require(classifier, probe, len(images.classes))
    watch.meter.forward += len(probe)
    parts = []
    for rows in torch.arange(len(images)).split(CHUNK):
        x, _ = images.batch(rows)
        parts.append(features(classifier, x)[0].double())
        watch.meter.forward += len(x) + len(x[:2])
    h = torch.cat(parts)
    wrong = int((~h.isfinite().all(dim=1)).sum())
    if wrong:
        raise ValueError(f"features of {wrong} images of {images.name}: expected finite numbers")
    watch.step()
    return h


def by_class(images: ImageSet, least: int, needed: int = 1) -> dict[int, Tensor]:
    """Positions ``(n,)`` of the images of each class; one of fewer than ``least`` is left out.

    Raises:
        ValueError: fewer than ``needed`` classes are left.
    """
    positions = {k: (images.labels == k).nonzero().squeeze(1) for k in range(len(images.classes))}
    kept = {k: rows for k, rows in positions.items() if len(rows) >= least}
    if len(kept) < needed:
        found = f"{len(kept)} classes of at least {least} images in {images.name}"
        raise ValueError(f"{found}: expected {needed} or more")
    return kept


def components(h: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal components of centred rows: coordinates ``(n, c)`` and their deviations ``(c,)``.

    Args:
        h: ``(n, D)``.
        count: how many at most; those along which nothing varies are left out.
    """
    left, scale, _ = torch.linalg.svd(h - h.mean(dim=0), full_matrices=False)
    varied = int((scale > 1e-6 * max(1e-12, h.abs().max().item()) * len(h) ** 0.5).sum())
    kept = min(count, varied)
    return left[:, :kept] * scale[:kept], scale[:kept] / max(1, len(h) - 1) ** 0.5


def halved(points: Tensor, seed: int) -> Tensor:
    r"""One side of the best split in two that k-means finds, ``(n,)`` bool.

    .. math::
        \max_g\; \frac{n_1 n_2}{n^2} \lVert \bar z_1 - \bar z_2 \rVert^2

    All starts, by k-means++, run at once: a round is two products of matrices. Ten starts miss a
    small cluster in ten directions of equal variance in a third of all cases, a hundred in hardly
    any.

    Args:
        points: ``(n, c)``, not all the same.
        seed: names the starts.
    """
    z = points - points.mean(dim=0)
    count, squares, rng = len(z), z.square().sum(dim=1), generator(seed, "k-means")
    first = z[torch.randint(count, (STARTS,), generator=rng)]
    apart = first.square().sum(dim=1)[:, None] - 2 * first @ z.T + squares
    other = z[torch.multinomial(apart.clamp_min(1e-12), 1, generator=rng).squeeze(1)]
    side = _nearer(z, first, other)
    for _ in range(ROUNDS):
        first, other, _ = _centres(z, side)
        before, side = side, _nearer(z, first, other)
        if torch.equal(side, before):
            break
    return side[:, _centres(z, side)[2].argmax()]


def _nearer(z: Tensor, first: Tensor, other: Tensor) -> Tensor:
    """Which points ``(n, c)`` are nearer to the other centre of each start, ``(n, S)`` bool."""
    middle = (other.square() - first.square()).sum(dim=1) / 2
    return z @ (other - first).T > middle


def _centres(z: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means ``(S, c)`` of both sides of each split, and what it takes from the squares ``(S,)``."""
    inside = side.to(z)
    count = inside.sum(dim=0)
    within, whole = inside.T @ z, z.sum(dim=0)
    # An empty side has the mean 0 of all and takes nothing.
    first = (whole - within) / (len(z) - count).clamp_min(1)[:, None]
    other = within / count.clamp_min(1)[:, None]
    share = count / len(z)
    return first, other, share * (1 - share) * (other - first).square().sum(dim=1)


def leaning(points: Tensor, group: Tensor) -> Tensor:
    r"""How much nearer each point lies to the mean of a group than to that of the rest, ``(n,)``.

    .. math::
        \lVert z - \bar z_{\text{rest}} \rVert^2 - \lVert z - \bar z_{\text{group}} \rVert^2

    Args:
        points: ``(n, c)``.
        group: ``(n,)`` bool, neither empty nor all.
    """
    inside, outside = points[group].mean(dim=0), points[~group].mean(dim=0)
    return (points - outside).square().sum(dim=1) - (points - inside).square().sum(dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a scan says of one class.

    Attributes:
        at: positions of its images among all, ``(n,)`` int64.
        score: how suspicious the class is.
        rows: how suspicious each image is, ``(n,)``.
        marked: which are poison if the class has any, ``(n,)`` bool.
    """

    at: Tensor
    score: float
    rows: Tensor
    marked: Tensor


def indistinct(at: Tensor) -> Verdict:
    """The verdict of a class whose images all look the same: it has no two groups."""
    nothing = torch.zeros(len(at))
    return Verdict(at=at, score=0.0, rows=nothing, marked=nothing.bool())


def compared(verdicts: Mapping[int, Verdict]) -> dict[int, Verdict]:
    """The same with the anomaly index among the classes as score.

    Of normally distributed values the largest index is above 7.39, that is e^2, in 7 % of all sets
    of 3 classes, in 0.5 % of those of 10 and in 0.005 % of those of 43.
    """
    index = anomaly(torch.tensor([verdict.score for verdict in verdicts.values()]))
    return {
        k: replace(verdict, score=value)
        for (k, verdict), value in zip(verdicts.items(), index.tolist(), strict=True)
    }


def finding(
    verdicts: Mapping[int, Verdict], images: ImageSet, *, threshold: float, meter: Meter
) -> Finding:
    """Put the verdicts together: the most suspicious class counts, the accused ones are flagged.

    Classes that were left out have score 0, and so have their images.
    """
    classes, rows = torch.zeros(len(images.classes)), torch.zeros(len(images))
    flagged = torch.zeros(len(images), dtype=torch.bool)
    for k, verdict in verdicts.items():
        classes[k] = verdict.score
        rows[verdict.at] = verdict.rows.float()
        if verdict.score > threshold:
            flagged[verdict.at[verdict.marked]] = True
    worst = max(verdicts, key=lambda k: verdicts[k].score)
    score = verdicts[worst].score
    return Finding(
        score=score,
        threshold=threshold,
        suspect=worst if score > threshold else None,
        classes=classes,
        rows=rows,
        flagged=flagged,
        cost=meter,
    )
