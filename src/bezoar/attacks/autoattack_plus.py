"""AutoAttack plus: six attacks in turn, with restarts."""

from dataclasses import dataclass, field

from bezoar import checks
from bezoar.attacks.apgd import APGD
from bezoar.attacks.apgd_targeted import APGDTargeted
from bezoar.attacks.autoattack import SQUARES
from bezoar.attacks.fab import FAB
from bezoar.attacks.fab_targeted import FABTargeted
from bezoar.attacks.protocol import Attack


@dataclass(frozen=True, kw_only=True)
class AutoAttackPlus(Attack):
    """The plus version: APGD-CE, APGD-DLR, FAB, Square, targeted APGD, targeted FAB.

    Slower than ``AutoAttack`` and rarely stronger: the untargeted attacks get restarts, the
    targeted ones come last. Two classes have no third logit, and theirs is the margin in place of
    DLR, see ``losses.dlr``. Paper: arXiv:2003.01690, with the composition that its authors
    released. Cost, for an image of ten classes that stands under all: 7,800 backward and 9,757
    forward passes at the usual settings.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        norm: ``linf`` or ``l2``.
        steps: steps of a start of all but Square.
        starts: starts of the untargeted ones but Square.
        targets: wrong classes that the targeted ones lead to.
        queries: queries of Square.
    """

    eps: float = 0.1
    norm: str = "linf"
    steps: int = 100
    starts: int = 5
    targets: int = 9
    queries: int = 5000
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.known("norm", self.norm, SQUARES)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("starts", self.starts, 1)
        checks.at_least("targets", self.targets, 1)
        checks.at_least("queries", self.queries, 1)

    @property
    def parts(self) -> tuple[Attack, ...]:
        eps, norm, steps = self.eps, self.norm, self.steps
        return (
            APGD(eps=eps, norm=norm, steps=steps, restarts=self.starts),
            APGD(eps=eps, norm=norm, steps=steps, restarts=self.starts, loss="dlr"),
            FAB(eps=eps, norm=norm, steps=steps, restarts=self.starts),
            SQUARES[norm](eps=eps, steps=self.queries),
            APGDTargeted(eps=eps, norm=norm, steps=steps, restarts=self.targets),
            FABTargeted(eps=eps, norm=norm, steps=steps, restarts=self.targets),
        )
