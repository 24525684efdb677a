"""NI-FGSM: momentum that looks ahead."""

from dataclasses import dataclass, field

from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.mi_fgsm import Momentum, at_rest, moved
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import linf_radius
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class NIFGSM(Attack):
    r"""MI-FGSM with Nesterov's gradient, taken where the momentum is about to lead.

    .. math::
        g_{t+1} = \mu g_t + \frac{d\,\nabla}{\lVert\nabla\rVert_1}, \qquad
        \nabla = \nabla_x L(f(x_t + \alpha\mu g_t), y)

    with the step of ``MIFGSM``. Paper: arXiv:1908.06281, section 3.2, where the factor d is
    missing: then the look ahead would be a d-th of a step. Cost: ``steps`` forward and backward
    passes an image, and one forward pass to judge the last point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps, each of length eps / steps.
        decay: the factor mu of the momentum; 0 forgets past gradients.
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Momentum:
        return at_rest(x, noise)

    def step(self, state: Momentum, oracle: Oracle) -> Momentum:
        point = ahead(state, self.eps, self.steps, self.decay)
        _, gradient = oracle.gradient(point, cross_entropy)
        return moved(state, gradient, self.eps, self.steps, self.decay)

    def best(self, state: Momentum) -> Tensor:
        return state.x_adv


def ahead(state: Momentum, eps: float, steps: int, decay: float) -> Tensor:
    """Where the momentum is about to lead each image."""
    return state.x_adv + linf_radius(eps) / steps * decay * state.velocity
