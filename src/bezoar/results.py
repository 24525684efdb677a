"""What a measurement is: facts per image. Rates and intervals are derived when they are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rate:
    """A count over a total, with its 95 % Wilson score interval.

    >>> print(Rate(1, 4))
    25.0% [4.6%, 69.9%] (1/4)
    """

    count: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total or not self.total:
            raise ValueError(f"rate {self.count}/{self.total}: expected 0 <= count <= total >= 1")

    @property
    def value(self) -> float:
        """The share itself, in [0, 1]."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % Wilson interval."""
        from scipy.stats import binomtest

        interval = binomtest(self.count, self.total).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] ({self.count}/{self.total})"


@dataclass(frozen=True)
class Median:
    """The middle of some distances, with its 95 % interval from their order; infinite for none.

    The interval is that of the binomial test of the sign, and as wide as the smallest and the
    largest of fewer than six.
    """

    value: float
    low: float
    high: float
    total: int

    @classmethod
    def of(cls, distances: NDArray[np.float64]) -> "Median":
        """Count what is infinite as further than all others.

        Raises:
            ValueError: there is no distance.
        """
        from scipy.stats import binom

        if not len(distances):
            raise ValueError("median of no distances: expected at least one")
        ordered = np.sort(distances)
        rank = max(1, int(binom.ppf(0.025, len(ordered), 0.5)))
        ends = float(ordered[rank - 1]), float(ordered[-rank])
        return cls(float(np.median(ordered)), *ends, len(ordered))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What happened to every image under one attack; one entry an image, ordered by ``index``.

    Attributes:
        index: position of the image in its split's source file, ``(N,)`` int64, increasing.
        label: true class, ``(N,)`` int64.
        clean: class predicted on the clean image, ``(N,)`` int64; -1 where the classifier's output
            was not finite.
        adversarial: class predicted on the attacked image, ``(N,)`` int64; -1 likewise.
        clean_loss: cross-entropy on the clean image, ``(N,)`` float32; 0 where there is no class.
        loss: cross-entropy on the attacked image that was kept, ``(N,)`` float32; 0 likewise.
        distance: measured distance in the norm of the attack, ``(N,)`` float32, pixel units.
        first_success: step at which the image was first seen fooled, -1 for never, ``(N,)`` int64.
        forward, backward: passes spent on the image, ``(N,)`` int64.
        zero_gradient: the first gradient was exactly zero everywhere, ``(N,)`` bool.
        target: class that the attack led to, ``(N,)`` int64; ``None`` for one that led away from
            the true class.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    clean: NDArray[np.int64]
    adversarial: NDArray[np.int64]
    clean_loss: NDArray[np.float32]
    loss: NDArray[np.float32]
    distance: NDArray[np.float32]
    first_success: NDArray[np.int64]
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    zero_gradient: NDArray[np.bool_]
    target: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self.columns().items()}
        if len(set(sizes.values())) != 1 or not len(self.index):
            raise ValueError(f"columns of lengths {sizes}: expected equal lengths >= 1")
        if (np.diff(self.index) <= 0).any():
            raise ValueError("index: expected strictly increasing positions")

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def joined(cls, parts: Sequence["Facts"]) -> "Facts":
        """The facts of several units, in order."""
        names = parts[0].columns()
        if any(part.columns().keys() != names.keys() for part in parts):
            raise ValueError("units with and without a target: expected one or the other")
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that there are, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    @property
    def open(self) -> NDArray[np.bool_]:
        """Images that were not where the attacker wants them: right, or not of his target."""
        right: NDArray[np.bool_] = self.clean == self.label
        return right if self.target is None else np.not_equal(self.clean, self.target)

    @property
    def success(self) -> NDArray[np.bool_]:
        """Images that are where the attacker wants them: of his target, or just wrong."""
        wrong: NDArray[np.bool_] = self.adversarial != self.label
        return wrong if self.target is None else np.equal(self.adversarial, self.target)

    @property
    def robust(self) -> NDArray[np.bool_]:
        """Images classified correctly both clean and attacked."""
        right: NDArray[np.bool_] = (self.clean == self.label) & (self.adversarial == self.label)
        return right

    def reach(self, eps: float = math.inf) -> NDArray[np.float64]:
        """Least radius at which each image is known to be fooled, ``(N,)``; infinite if at none.

        The distance of the image that fooled, and 0 for one that needed no attack. With a target
        only what reached it has fooled. What an attack of radius ``eps`` found counts as inside its
        ball, however it was rounded.
        """
        distance = np.minimum(self.distance.astype(np.float64), eps)
        found = np.where(self.success, distance, np.inf)
        return np.where(self.open, found, 0.0)

    def outcome(self, eps: float | None = None) -> Rate:
        """What tables say: robust accuracy, or with a target the share of images that reached it.

        Args:
            eps: count as fooled only what is within this distance.
        """
        fooled = self.reach() <= eps if eps is not None else np.isfinite(self.reach())
        count = int(fooled.sum())
        return Rate(count if self.target is not None else len(self) - count, len(self))

    @property
    def robust_accuracy(self) -> Rate:
        """Share of all images, also of those that were wrong before the attack."""
        return Rate(int(self.robust.sum()), len(self))

    @property
    def mean_clean_loss(self) -> float:
        """Mean over the images that have a class, 0 where none has one."""
        return float(self.clean_loss[self.clean >= 0].sum() / max(1, (self.clean >= 0).sum()))

    @property
    def mean_loss(self) -> float:
        """The same of the attacked images."""
        return float(self.loss[self.adversarial >= 0].sum() / max(1, (self.adversarial >= 0).sum()))

    @property
    def attacked_accuracy(self) -> Rate:
        """Share of images classified correctly after the attack, also of those it put right.

        Where this is above the robust accuracy of the same attack, the images tell their class.
        """
        return Rate(int((self.adversarial == self.label).sum()), len(self))

    @property
    def clean_accuracy(self) -> Rate:
        """Share of images whose clean version is classified correctly."""
        return Rate(int((self.clean == self.label).sum()), len(self))


def standing(
    found: Sequence[tuple[Facts, float]], eps: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which images stand at a radius under all attacks of one norm, image by image.

    An image that is fooled at one radius is fooled at every larger one: the smaller ball is part
    of the larger. So attacks of smaller radii count as well, and those of none count by what they
    found within ``eps``.

    Args:
        found: the facts of each attack and its radius, infinite for none; all of one norm.
        eps: the radius.

    Returns:
        Positions of the images that all attacks of this radius or of none saw, increasing, and
        whether each stands.

    Raises:
        ValueError: there is no attack of this radius or of none.
    """
    asked = [facts for facts, radius in found if radius in (eps, math.inf)]
    if not asked:
        raise ValueError(f"eps={eps:g}: expected at least one attack of this radius or of none")
    index = _shared(asked)
    stands = np.ones(len(index), dtype=np.bool_)
    for facts, radius in found:
        if radius <= eps or radius == math.inf:
            _, here, there = np.intersect1d(
                index, facts.index, assume_unique=True, return_indices=True
            )
            stands[here] &= facts.reach(radius)[there] > eps
    return index, stands


def success_by_queries(facts: Facts, budgets: Sequence[int]) -> list[Rate]:
    """Share of the images that needed an attack and are fooled within each budget of queries.

    Read off the forward passes, which end with the step that fools: an attack that asks several
    times a step is charged for all of the step. The referee's own look at the clean image is not.

    Raises:
        ValueError: the attack saw gradients, or no image needed an attack.
    """
    if facts.backward.any():
        raise ValueError("backward passes found: expected an attack that sees scores only")
    queries = np.where(facts.success, facts.forward - 1, np.inf)[facts.open]
    return [Rate(int((queries <= budget).sum()), len(queries)) for budget in budgets]


def border(found: Sequence[Facts]) -> NDArray[np.float64]:
    """Distance of the nearest image that fooled, by any of some attacks without a radius.

    One entry for each image that all of them saw and that needed an attack; infinite where none
    was found.
    """
    index = _shared(found)
    own = [facts.reach()[np.isin(facts.index, index)] for facts in found]
    needed = np.isin(index, found[0].index[found[0].open])
    least: NDArray[np.float64] = np.min(own, axis=0)[needed]
    return least


def worst_name(norm: str, eps: float, what: str = "robust") -> str:
    """The metric of the worst case over all attacks at a radius; Linf is not named."""
    return f"{what}@{eps:g}" if norm == "linf" else f"{what}-{norm}@{eps:g}"


def _shared(found: Sequence[Facts]) -> NDArray[np.int64]:
    """Positions of the images that all of them have, increasing."""
    index = found[0].index
    for facts in found[1:]:
        index = np.intersect1d(index, facts.index, assume_unique=True)
    return index
