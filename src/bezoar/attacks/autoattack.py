"""AutoAttack: four attacks in turn, each on the images that those before it left."""

from dataclasses import dataclass, field

from bezoar import checks
from bezoar.attacks.apgd import APGD
from bezoar.attacks.apgd_targeted import APGDTargeted
from bezoar.attacks.fab_targeted import FABTargeted
from bezoar.attacks.protocol import Attack
from bezoar.attacks.square import Square
from bezoar.attacks.square_l2 import SquareL2

SQUARES = {"linf": Square, "l2": SquareL2}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard version: APGD-CE, targeted APGD, targeted FAB, Square.

    Two white-box attacks of different losses, one that looks for the nearest fooling image, and
    one that uses no gradient at all, so that what masks one of them need not mask the next. Paper:
    arXiv:2003.01690, section 6. Cost, for an image that stands under all: 1,900 backward and 7,838
    forward passes at the usual settings.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        norm: ``linf`` or ``l2``.
        steps: steps of a start of the first three.
        targets: wrong classes that the targeted ones lead to.
        queries: queries of Square.
    """

    eps: float = 0.1
    norm: str = "linf"
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.known("norm", self.norm, SQUARES)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("targets", self.targets, 1)
        checks.at_least("queries", self.queries, 1)

    @property
    def parts(self) -> tuple[Attack, ...]:
        eps, norm, steps, targets = self.eps, self.norm, self.steps, self.targets
        return (
            APGD(eps=eps, norm=norm, steps=steps),
            APGDTargeted(eps=eps, norm=norm, steps=steps, restarts=targets),
            FABTargeted(eps=eps, norm=norm, steps=steps, restarts=targets),
            SQUARES[norm](eps=eps, steps=self.queries),
        )
