"""SI-FGSM: gradients of copies that are ever darker."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.mi_fgsm import Momentum, at_rest, moved
from bezoar.attacks.ni_fgsm import ahead
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class SIFGSM(Attack):
    r"""NI-FGSM on the mean gradient of scale copies of the image, SI-NI-FGSM in the paper.

    .. math::
        \nabla = \frac1m \sum_{i=0}^{m-1} \nabla_x L\bigl(f((x_t + \alpha\mu g_t) / 2^i), y\bigr)

    Networks often give a darker copy the same class, so the copies stand for further networks.
    Paper: arXiv:1908.06281, algorithm 1. Cost: ``copies * steps`` forward and backward passes an
    image, and one forward pass to judge the last point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps, each of length eps / steps.
        decay: the factor mu of the momentum; 0 forgets past gradients.
        copies: the number m of copies, the image itself among them.
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    copies: int = 5
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)
        checks.at_least("copies", self.copies, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Momentum:
        return at_rest(x, noise)

    def step(self, state: Momentum, oracle: Oracle) -> Momentum:
        gradient = torch.zeros_like(state.x)
        point = ahead(state, self.eps, self.steps, self.decay)
        for i in range(self.copies):
            _, of_copy = oracle.gradient(point / 2**i, cross_entropy)
            gradient += of_copy / 2**i / self.copies
        return moved(state, gradient, self.eps, self.steps, self.decay)

    def best(self, state: Momentum) -> Tensor:
        return state.x_adv
