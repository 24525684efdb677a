"""Projected gradient descent in the L2 ball."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import LOSSES
from bezoar.attacks.protocol import Attack, Ball, Oracle
from bezoar.attacks.starts import in_ball
from bezoar.geometry import direction_l2, project_l2
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class PGDL2(Attack):
    r"""Projected gradient descent in the L2 ball.

    .. math::
        x_{t+1} = \Pi_\epsilon\bigl(x_t + \alpha\, g / \lVert g\rVert_2\bigr),
        \qquad g = \nabla_x L(f(x_t), y)

    from a point drawn uniformly from the ball. Paper: arXiv:1706.06083, section 2.1 and appendix.
    Cost: ``steps`` forward and backward passes an image and a restart, and one forward pass.

    Args:
        eps: radius of the ball: root of the sum over pixels of squared changes, pixels in [0, 1].
        steps: number of steps.
        step_size: the length alpha; ``None`` is 2.5 eps / steps.
        random_start: when false, start at the clean image.
        restarts: number of starts; later ones go on with the images that still stand.
        loss: what is ascended, a name in ``losses.LOSSES``.
    """

    eps: float = 1.0
    steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    loss: str = "ce"
    norm: str = field(default="l2", init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.known("loss", self.loss, LOSSES)
        if self.step_size is not None:
            checks.in_range("step_size", self.step_size, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        if not self.random_start:
            return Ball(x, x)
        return Ball(in_ball(x, self.eps, self.norm, noise), x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        alpha = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        _, gradient = oracle.gradient(state.x_adv, LOSSES[self.loss])
        moved = state.x_adv + alpha * direction_l2(gradient)
        return Ball(project_l2(moved, state.x, self.eps), state.x)

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
