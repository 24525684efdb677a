r"""What can be proved of a smoothed classifier, image by image (arXiv:1902.02918).

.. math::
    g(x) = \arg\max_c\; P\bigl(f(x + \sigma n) = c\bigr), \qquad
    R = \sigma\, \Phi^{-1}(\underline{p_A})

Where class A has a probability of at least :math:`\underline{p_A} > 1/2` under the noise, g says A
for every image within the L2 distance R. The probability is bounded from below by counting draws
(Clopper and Pearson), so that a certificate is wrong with a probability of at most ``alpha``, for
each image on its own.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, frozen, laid_out, reseeded, said
from bezoar.data.imageset import ImageSet
from bezoar.models import Smoothed
from bezoar.results import Rate
from bezoar.seeds import Noise, subkeys
from bezoar.snapshots import Snapshot

BLOCK = 200  # draws a pass: noise is made block by block, so the results depend on this number
ABSTAINS = -1

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """What was counted of each image, one entry an image in order of ``index``.

    Attributes:
        index: position of the image in its split's source file, ``(N,)`` int64, increasing.
        label: true class, ``(N,)`` int64.
        chosen: class that the first ``n0`` draws favoured, ``(N,)`` int64.
        counts: how many of the ``n`` draws that followed gave each class, ``(N, K)`` int64; a draw
            whose logits were not finite gave none.
        n: draws of the estimate.
        sigma: deviation of the noise, in pixel units of [0, 1].
        alpha: probability with which the certificate of an image may be wrong.
    """

    index: Counts
    label: Counts
    chosen: Counts
    counts: Counts
    n: int
    sigma: float
    alpha: float

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self.columns().items()}
        if len(set(sizes.values())) != 1 or not len(self.index):
            raise ValueError(f"columns of lengths {sizes}: expected equal lengths >= 1")
        _require_probability(self.alpha)
        if self.counts.ndim != 2 or self.counts.min() < 0 or self.counts.sum(axis=1).max() > self.n:
            raise ValueError(f"counts: expected (N, K), of {self.n} draws an image")
        if self.chosen.min() < 0 or self.chosen.max() >= self.counts.shape[1]:
            raise ValueError(f"chosen: expected classes 0 to {self.counts.shape[1] - 1}")

    def __len__(self) -> int:
        return len(self.index)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in ("index", "label", "chosen", "counts")}

    @property
    def lower(self) -> NDArray[np.float64]:
        """Bound from below on the probability of the chosen class, ``(N,)``."""
        hits = np.take_along_axis(self.counts, self.chosen[:, None], axis=1).squeeze(1)
        return lower_bound(hits, self.n, self.alpha)

    @property
    def predicted(self) -> Counts:
        """The certified class of each image, ``(N,)`` int64; -1 where it abstains."""
        return np.where(self.lower > 0.5, self.chosen, ABSTAINS)

    @property
    def radius(self) -> NDArray[np.float64]:
        """Within this L2 distance the class holds, ``(N,)``, pixel units; 0 where it abstains."""
        from scipy.stats import norm

        return np.asarray(self.sigma * norm.ppf(np.maximum(self.lower, 0.5)))

    @property
    def clean(self) -> Rate:
        """Share of the images for which the smoothed classifier says the true class."""
        return Rate(int((voted(self.counts, self.alpha) == self.label).sum()), len(self))

    @property
    def abstained(self) -> Rate:
        """Share of the images without a certificate."""
        return Rate(int((self.predicted == ABSTAINS).sum()), len(self))

    def accuracy(self, radius: float) -> Rate:
        """Share of all images with a certificate of the true class that reaches ``radius``.

        At radius 0 these are the images that are right and not abstained from.
        """
        checks.in_range("radius", radius, 0)
        held = (self.predicted == self.label) & (self.radius >= radius)
        return Rate(int(held.sum()), len(self))

    def curve(self) -> dict[float, Rate]:
        """Certified accuracy at 0 and at each radius beyond which it falls, increasing."""
        ends = np.unique(self.radius[self.predicted == self.label])
        return {radius: self.accuracy(radius) for radius in [0.0, *ends.tolist()]}


def lower_bound(hits: Counts, n: int, alpha: float) -> NDArray[np.float64]:
    """Clopper and Pearson's one-sided bound: below the true probability with 1 - ``alpha``.

    Args:
        hits: successes, ``(N,)``.
        n: draws behind each.
        alpha: probability that the bound lies above, in (0, 1).
    """
    from scipy.stats import beta

    bound = beta.ppf(alpha, np.maximum(hits, 1), n - hits + 1)  # no beta(0, n + 1)
    return np.where(hits > 0, bound, 0.0)


def voted(counts: Counts, alpha: float) -> Counts:
    """What the smoothed classifier says, PREDICT of the paper: ``(N,)`` int64, -1 abstains.

    The class with most draws, if a two-sided binomial test tells it from the second at the level
    ``alpha``; so an answer is another than that of g with a probability of at most ``alpha``.

    Args:
        counts: draws that gave each class, ``(N, K)``.
        alpha: probability with which an answer may be wrong, in (0, 1).
    """
    from scipy.stats import binom

    _require_probability(alpha)
    second, first = np.sort(counts, axis=1)[:, -2:].T
    p = np.minimum(1.0, 2 * binom.sf(first - 1, first + second, 0.5))
    return np.where(p <= alpha, counts.argmax(axis=1), ABSTAINS)


def certify(
    smoothed: Smoothed,
    images: ImageSet,
    *,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int,
    snapshot: Snapshot | None = None,
    snapshot_seconds: float = 60.0,
    on_image: Callable[[int, int], None] | None = None,
) -> Certificates:
    """Certify every image, CERTIFY of the paper; ``n0`` + ``n`` forward passes an image.

    The noise of an image follows from (seed, name of the set, index), so it does not matter which
    others are certified with it, nor whether it was interrupted.

    Args:
        smoothed: the classifier; not changed.
        images: what is certified.
        n0: draws by which the class is chosen.
        n: fresh draws by which its probability is bounded.
        alpha: probability with which the certificate of an image may be wrong, in (0, 1).
        seed: names the noise.
        snapshot: where to keep what was counted; what it holds is taken up.
        snapshot_seconds: time between two snapshots.
        on_image: told after every image how many of how many are done.

    Raises:
        ValueError: a classifier that is not smoothed, no draws, or an ``alpha`` outside (0, 1).
    """
    checks.at_least("n0", n0, 1)
    checks.at_least("n", n, 1)
    smoothed = laid_out(deepcopy(require(smoothed, alpha)))
    x, label = images.batch(slice(None))
    stream = Noise.first(seed, f"certify/{images.name}", images.index)
    rows = np.arange(len(images))
    to_choose, to_estimate = (stream.take(rows, np.full_like(rows, k)).keys() for k in (0, 1))
    saved = snapshot.load() if snapshot else None
    chosen: list[int] = saved["chosen"].tolist() if saved else []
    counts: list[list[int]] = saved["counts"].tolist() if saved else []
    written = time.monotonic()
    for row in range(len(chosen), len(images)):
        one = slice(row, row + 1)
        chosen.append(int(votes(smoothed, x[one], n0, to_choose[one]).argmax()))
        counts.append(votes(smoothed, x[one], n, to_estimate[one])[0].tolist())
        if snapshot and time.monotonic() - written >= snapshot_seconds:
            snapshot.save({"chosen": torch.tensor(chosen), "counts": torch.tensor(counts)})
            written = time.monotonic()
        if on_image is not None:
            on_image(row + 1, len(images))
    return Certificates(
        index=images.index,
        label=label.numpy(),
        chosen=np.array(chosen, dtype=np.int64),
        counts=np.array(counts, dtype=np.int64),
        n=n,
        sigma=smoothed.sigma,
        alpha=alpha,
    )


def votes(smoothed: Smoothed, x: Tensor, n: int, keys: Tensor) -> Counts:
    """How many draws of the noise give each class, ``(N, K)`` int64; ``n`` passes an image.

    A draw whose logits are not finite counts for no class. The noise is made on the CPU, a pass of
    ``BLOCK`` draws at a time, and depends on the image's key alone.

    Args:
        smoothed: the classifier; not changed.
        x: images ``(N, C, H, W)``.
        n: draws.
        keys: of the noise of each image, ``(N,)`` int64 on the CPU, at least 0.
    """
    network, device = smoothed.network, device_of(smoothed)
    found = []
    with torch.no_grad(), frozen(network):
        for image, key in zip(x.to(device), keys, strict=True):
            rng = torch.Generator().manual_seed(int(key))
            blocks = []
            for begin in range(0, n, BLOCK):
                draws = torch.arange(begin, min(begin + BLOCK, n))
                noise = torch.randn(len(draws), *image.shape, generator=rng).to(image)
                with reseeded(network, subkeys(key, draws).to(device)):
                    logits = network(image + smoothed.sigma * noise)
                classes = said(logits).cpu()
                blocks.append(torch.bincount(classes[classes >= 0], minlength=logits.shape[1]))
            found.append(torch.stack(blocks).sum(dim=0))
    return torch.stack(found).numpy()


def require(classifier: nn.Module, alpha: float) -> Smoothed:
    """Require a classifier that can be certified, and a level.

    Raises:
        ValueError: one that is not smoothed, or an ``alpha`` outside (0, 1).
    """
    if not isinstance(classifier, Smoothed):
        expected = "expected a smoothed one, such as `bezoar guard fit --with smoothing` writes"
        raise ValueError(f"classifier {type(classifier).__name__}: {expected}")
    _require_probability(alpha)
    return classifier


def _require_probability(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: expected a number in (0, 1)")
