"""What a measurement is: facts per image. Rates and intervals are derived when they are read."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

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


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What happened to every image under one attack; one entry an image, ordered by ``index``.

    Attributes:
        index: position of the image in its split's source file, ``(N,)`` int64, increasing.
        label: true class, ``(N,)`` int64.
        clean: class predicted on the clean image, ``(N,)`` int64.
        adversarial: class predicted on the attacked image, ``(N,)`` int64.
        clean_loss: cross-entropy on the clean image, ``(N,)`` float32.
        loss: cross-entropy on the attacked image that was kept, ``(N,)`` float32.
        distance: measured distance in the norm of the attack, ``(N,)`` float32, pixel units.
        first_success: step at which the image was first seen fooled, -1 for never, ``(N,)`` int64.
        forward, backward: passes spent on the image, ``(N,)`` int64.
        zero_gradient: the first gradient was exactly zero everywhere, ``(N,)`` bool.
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

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in vars(self).items()}
        if len(set(sizes.values())) != 1 or not len(self.index):
            raise ValueError(f"columns of lengths {sizes}: expected equal lengths >= 1")
        if (np.diff(self.index) <= 0).any():
            raise ValueError("index: expected strictly increasing positions")

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def joined(cls, parts: Sequence["Facts"]) -> "Facts":
        """The facts of several units, in order."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    @property
    def robust(self) -> NDArray[np.bool_]:
        """Images classified correctly both clean and attacked."""
        right: NDArray[np.bool_] = (self.clean == self.label) & (self.adversarial == self.label)
        return right

    @property
    def robust_accuracy(self) -> Rate:
        """Share of all images, also of those that were wrong before the attack."""
        return Rate(int(self.robust.sum()), len(self))

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
