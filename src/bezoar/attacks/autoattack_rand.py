"""AutoAttack for random classifiers: two attacks in turn."""

from dataclasses import dataclass, field

from bezoar import checks
from bezoar.attacks.apgd import APGD
from bezoar.attacks.protocol import Attack
from bezoar.geometry import ASCENTS


@dataclass(frozen=True, kw_only=True)
class AutoAttackRand(Attack):
    """The version for random classifiers: APGD-CE and APGD-DLR.

    What needs the border to stay where it is, FAB, and what compares single scores, Square, is
    left out. The averaging over the classifier's randomness, of 20 draws a gradient at the
    authors', is the classifier's and not made here: without it the gradients are of one draw each.
    Paper: arXiv:2003.01690, with the composition that its authors released. Cost, for an image
    that stands under both: 200 backward and 202 forward passes at the usual settings.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        norm: ``linf`` or ``l2``.
        steps: steps of each.
    """

    eps: float = 0.1
    norm: str = "linf"
    steps: int = 100
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.known("norm", self.norm, ASCENTS)
        checks.at_least("steps", self.steps, 1)

    @property
    def parts(self) -> tuple[Attack, ...]:
        return (
            APGD(eps=self.eps, norm=self.norm, steps=self.steps),
            APGD(eps=self.eps, norm=self.norm, steps=self.steps, loss="dlr"),
        )
