"""The basic iterative method: FGSM in small steps."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Ball, Oracle
from bezoar.geometry import linf_radius, project_linf
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class BIM(Attack):
    r"""Signed steps from the clean image, cut to the ball after each.

    .. math::
        x_{t+1} = \Pi_\epsilon\bigl(x_t + \alpha\,\mathrm{sign}\,\nabla_x L(f(x_t), y)\bigr),
        \qquad x_0 = x

    Without the random start of ``PGD``, which is what tells a curved loss from a masked gradient.
    Paper: arXiv:1607.02533, section 2.2. Cost: ``steps`` forward and backward passes an image, and
    one forward pass to judge the last point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps.
        step_size: the length alpha, in pixel units; ``None`` is eps / steps.
    """

    eps: float = 0.1
    steps: int = 10
    step_size: float | None = None
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        if self.step_size is not None:
            checks.in_range("step_size", self.step_size, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        return Ball(x, x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        eps = linf_radius(self.eps)
        alpha = eps / self.steps if self.step_size is None else self.step_size
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        return Ball(project_linf(state.x_adv + alpha * gradient.sign(), state.x, eps), state.x)

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
