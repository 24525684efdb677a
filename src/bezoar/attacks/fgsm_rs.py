"""FGSM from a random start: the inner attack of fast adversarial training."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Ball, Oracle
from bezoar.attacks.starts import in_ball
from bezoar.geometry import linf_radius, project_linf
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class FGSMRandomStart(Attack):
    r"""One signed step from a uniform random point of the ball.

    .. math::
        x' = \Pi_\epsilon\bigl(x + u + \alpha\epsilon\,\mathrm{sign}\,
             \nabla_x L(f(x + u), y)\bigr), \qquad u \sim U[-\epsilon, \epsilon]

    with :math:`\Pi_\epsilon` the projection onto the Linf ball, cut to [0, 1]. Paper:
    arXiv:2001.03994, algorithm 3. Cost: one forward and one backward pass an image.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        alpha: length of the step in units of eps; the paper's 1.25 avoids catastrophic
            overfitting in training where 2 does not.
    """

    eps: float = 0.1
    alpha: float = 1.25
    norm: str = field(default="linf", init=False, repr=False)
    steps: int = field(default=1, init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.in_range("alpha", self.alpha, 0, 2)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        return Ball(in_ball(x, self.eps, self.norm, noise), x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        eps = linf_radius(self.eps)
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        moved = state.x_adv + self.alpha * eps * gradient.sign()
        return Ball(project_linf(moved, state.x, eps), state.x)

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
