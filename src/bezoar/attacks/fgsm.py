"""The fast gradient sign method, the first and cheapest gradient attack."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Ball, Oracle
from bezoar.geometry import linf_radius, project_linf
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    r"""One step of length eps along the sign of the gradient.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}\bigl(x + \epsilon\,\mathrm{sign}\,\nabla_x L(f(x), y)\bigr)

    Paper: arXiv:1412.6572, section 4. Cost: one forward and one backward pass an image.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
    """

    eps: float = 0.1
    norm: str = field(default="linf", init=False, repr=False)
    steps: int = field(default=1, init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        return Ball(x, x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        eps = linf_radius(self.eps)
        _, gradient = oracle.gradient(state.x, cross_entropy)
        moved = state.x + eps * gradient.sign()
        return Ball(project_linf(moved, state.x, eps), state.x)

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
