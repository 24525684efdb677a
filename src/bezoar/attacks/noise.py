"""Uniform noise: the control that every gradient attack must beat."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Ball, Oracle
from bezoar.attacks.starts import in_ball
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    r"""A random point of the Linf ball, cut to [0, 1]: :math:`x' = x + u`, u from U[-eps, eps].

    No attack worth its name is weaker than this control; where one is, its gradients are masked
    (arXiv:1802.00420, section 3.1). Cost: one forward pass an image and a draw.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        restarts: number of draws; an image counts as fooled when one of them fools.
    """

    eps: float = 0.1
    restarts: int = 1
    norm: str = field(default="linf", init=False, repr=False)
    steps: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        return Ball(in_ball(x, self.eps, self.norm, noise), x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        return state  # never called: steps is 0

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
