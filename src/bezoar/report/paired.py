"""Before against after on the same images: a paired comparison."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bezoar.results import Rate


@dataclass(frozen=True)
class Paired:
    """How two models did on the same images.

    Attributes:
        both: right before and after.
        healed: wrong before, right after.
        harmed: right before, wrong after.
        neither: wrong before and after.
    """

    both: int
    healed: int
    harmed: int
    neither: int

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> "Paired":
        """Count two columns of right or wrong, image by image.

        Raises:
            ValueError: the columns differ in length or are empty.
        """
        if before.shape != after.shape or not before.size:
            found = f"{before.shape} and {after.shape}"
            raise ValueError(f"columns of shape {found}: expected one length >= 1")
        counts = (before & after, ~before & after, before & ~after, ~before & ~after)
        return cls(*(int(count.sum()) for count in counts))

    @property
    def total(self) -> int:
        """Images compared."""
        return self.both + self.healed + self.harmed + self.neither

    @property
    def change(self) -> float:
        """Rate after minus rate before, in [-1, 1]."""
        return (self.healed - self.harmed) / self.total

    @cached_property
    def interval(self) -> tuple[float, float]:
        r"""95 % interval of the change.

        Square-and-add of the two Wilson intervals with the correlation of the pairs,

        .. math:: d - \sqrt{l^2 - 2 \phi\, l u' + u'^2}, \quad d + \sqrt{u^2 - 2 \phi\, u l' + l'^2}

        with l, u the distances from the rate after to the ends of its interval, l', u' those of
        the rate before. Newcombe, Statistics in Medicine 17 (1998) 2635.
        """
        before = Rate(self.both + self.harmed, self.total)
        after = Rate(self.both + self.healed, self.total)
        (before_low, before_high), (after_low, after_high) = before.interval, after.interval
        down, up = after.value - after_low, after_high - after.value
        down_before, up_before = before.value - before_low, before_high - before.value
        wrong = (before.total - before.count) * (after.total - after.count)
        product = before.count * after.count * wrong
        phi = 0.0
        if product:
            phi = (self.both * self.neither - self.healed * self.harmed) / math.sqrt(product)
        below = down**2 - 2 * phi * down * up_before + up_before**2
        above = up**2 - 2 * phi * up * down_before + down_before**2
        return self.change - math.sqrt(max(below, 0)), self.change + math.sqrt(max(above, 0))

    @cached_property
    def p_value(self) -> float:
        """Exact McNemar test: how likely so lopsided a count is where nothing changed."""
        from scipy.stats import binomtest

        changed = self.healed + self.harmed
        return float(binomtest(self.healed, changed).pvalue) if changed else 1.0
