"""VMI-FGSM: momentum whose gradients are tuned by those around the last point."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.mi_fgsm import Momentum, at_rest, moved
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import linf_radius
from bezoar.seeds import Noise, hashed


class Varying(NamedTuple):
    """That of MI-FGSM, and how the gradients around the last point differed from it."""

    x_adv: Tensor
    x: Tensor
    velocity: Tensor
    age: Tensor
    key: Tensor
    variance: Tensor


@dataclass(frozen=True, kw_only=True)
class VMIFGSM(Attack):
    r"""MI-FGSM on the gradient plus its variance.

    .. math::
        \nabla = \nabla_x L(f(x_t), y) + v_t, \qquad
        v_{t+1} = \frac1N \sum_{i=1}^N \nabla_x L\bigl(f(x_t + r_i), y\bigr)
                  - \nabla_x L(f(x_t), y)

    with :math:`r_i \sim U[-\beta\epsilon, \beta\epsilon]` and the step of ``MIFGSM``. Paper:
    arXiv:2103.15571, algorithm 1. Cost: ``(1 + samples) * steps`` forward and backward passes an
    image, and one forward pass to judge the last point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps, each of length eps / steps.
        decay: the factor mu of the momentum; 0 forgets past gradients.
        samples: the number N of points around.
        beta: how far around, in units of eps.
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    samples: int = 20
    beta: float = 1.5
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)
        checks.at_least("samples", self.samples, 1)
        checks.in_range("beta", self.beta, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Varying:
        return Varying(*at_rest(x, noise), variance=torch.zeros_like(x))

    def step(self, state: Varying, oracle: Oracle) -> Varying:
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        around = torch.zeros_like(gradient)
        radius = self.beta * linf_radius(self.eps)
        for i in range(self.samples):
            draw = hashed(state.key, state.age * self.samples + i, state.x.shape[1:])
            r = radius * (2 * draw - 1).to(state.x)
            around += oracle.gradient(state.x_adv + r, cross_entropy)[1] / self.samples
        here = Momentum(*state[:5])
        on = moved(here, gradient + state.variance, self.eps, self.steps, self.decay)
        return Varying(*on, variance=around - gradient)

    def best(self, state: Varying) -> Tensor:
        return state.x_adv
