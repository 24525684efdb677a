"""Projected gradient descent in the Linf ball, the workhorse first-order attack."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import LOSSES
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.attacks.starts import in_ball
from bezoar.geometry import linf_radius
from bezoar.seeds import Noise


class Cube(NamedTuple):
    """Where each image is, and the two corners of ball and box: all ``(N, C, H, W)``."""

    x_adv: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    r"""Projected gradient descent in the Linf ball.

    .. math::
        x_{t+1} = \Pi_\epsilon\bigl(x_t + \alpha\,\mathrm{sign}\,\nabla_x L(f(x_t), y)\bigr),
        \qquad x_0 = \Pi_\epsilon(x + u),\; u \sim U[-\epsilon, \epsilon]

    with :math:`\Pi_\epsilon` the projection onto the ball around the clean image, cut to [0, 1].
    Paper: arXiv:1706.06083, section 2.1. Cost: ``steps`` forward and backward passes an image and
    a restart, and one forward pass to judge the last point.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        steps: number of steps.
        step_size: the length alpha, in pixel units; ``None`` is 2.5 eps / steps, which reaches
            every point of the ball from any other whatever eps is swept over.
        random_start: draw u; when false, start at the clean image.
        restarts: number of starts; later ones go on with the images that still stand.
        loss: what is ascended, a name in ``losses.LOSSES``.
    """

    eps: float = 0.1
    steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    loss: str = "ce"
    norm: str = field(default="linf", init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.known("loss", self.loss, LOSSES)
        if self.step_size is not None:
            checks.in_range("step_size", self.step_size, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Cube:
        eps = linf_radius(self.eps)
        first = in_ball(x, self.eps, self.norm, noise) if self.random_start else x
        return Cube(first, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1))

    def step(self, state: Cube, oracle: Oracle) -> Cube:
        eps = linf_radius(self.eps)
        alpha = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        _, gradient = oracle.gradient(state.x_adv, LOSSES[self.loss])
        # In place: on a small network these few operations are a good part of a step.
        moved = gradient.sign().mul_(alpha).add_(state.x_adv)
        return state._replace(x_adv=moved.clamp_(state.low, state.high))

    def best(self, state: Cube) -> Tensor:
        return state.x_adv
