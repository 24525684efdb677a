"""R+FGSM: a small random step before the gradient is taken."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Ball, Oracle
from bezoar.geometry import linf_radius, project_linf
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class RFGSM(Attack):
    r"""A signed random step of length alpha, then a signed gradient step of length eps - alpha.

    .. math::
        x_0 = \mathrm{clip}_{[0, 1]}\bigl(x + \alpha\epsilon\,\mathrm{sign}\,\mathcal N(0, I)\bigr),
        \qquad x' = \mathrm{clip}_{[0, 1]}\bigl(x_0 + (1 - \alpha)\epsilon\,\mathrm{sign}\,
        \nabla_x L(f(x_0), y)\bigr)

    It escapes the sharp curvature near clean images that training on FGSM leaves. Paper:
    arXiv:1705.07204, section 4.1. Cost: one forward and one backward pass an image.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        alpha: share of eps that the random step takes, in [0, 1].
    """

    eps: float = 0.1
    alpha: float = 0.5
    norm: str = field(default="linf", init=False, repr=False)
    steps: int = field(default=1, init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.in_range("alpha", self.alpha, 0, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        length = self.alpha * linf_radius(self.eps)
        return Ball((x + length * noise.normal(x.shape[1:]).sign().to(x)).clamp(0, 1), x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        eps = linf_radius(self.eps)
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        moved = state.x_adv + (1 - self.alpha) * eps * gradient.sign()
        return Ball(project_linf(moved, state.x, eps), state.x)

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
