"""What a defence is, may see and hands back: the contract of repairs and guards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, Row, silent
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a defence may see. There is no test split in it, so nothing can be chosen on one."""

    train: ImageSet
    validation: ImageSet


@dataclass(frozen=True, eq=False)
class Defended:
    """What a defence hands back.

    Attributes:
        classifier: a repaired copy, or a guarded classifier, in eval mode.
        log: one row a round; row 0 is what it began with.
        cost: everything that was spent, validation included.
    """

    classifier: nn.Module
    log: list[Row]
    cost: Meter


class Defence(Protocol):
    """A frozen dataclass of numbers; a call gives another classifier back."""

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        """Defend a classifier, which is not changed itself.

        Args:
            classifier: images to logits.
            evidence: what the defence may learn from and stop on.
            seed: names all randomness.
            snapshot: where to keep the state of a long training; what it holds is taken up.
            on_step: told how far the training is.
        """
