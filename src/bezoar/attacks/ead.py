"""EAD: elastic-net attacks, which find small and sparse changes in L1."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.balance import next_weight
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import wide
from bezoar.seeds import Noise


class Elastic(NamedTuple):
    """State of every image; images ``(N, C, H, W)``, numbers ``(N, 1, 1, 1)`` but ``age``.

    Attributes:
        x_adv: the iterate.
        ahead: the point with momentum, from which the next step goes out.
        x: the clean image.
        c: weight of the loss.
        low, high: between them the smallest c that fools is looked for.
        fooled: whether this c has fooled.
        age: steps taken, ``(N,)``.
    """

    x_adv: Tensor
    ahead: Tensor
    x: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    fooled: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class EAD(Attack):
    r"""Minimise an elastic net of the change and the loss together, by FISTA, and balance them.

    .. math::
        \min_{x'}\; c\,\max\bigl(z_y - \max_{j \ne y} z_j, -\kappa\bigr)
            + \lVert x' - x\rVert_2^2 + \beta\lVert x' - x\rVert_1

    .. math::
        x_{k+1} = S_\beta\bigl(y_k - \alpha_k \nabla g(y_k)\bigr), \qquad
        y_{k+1} = x_{k+1} + \frac{k}{k + 3}(x_{k+1} - x_k), \qquad
        \alpha_k = \alpha_0 \sqrt{1 - k / K}

    with g all but the L1 term and :math:`S_\beta`, which brings each value nearer to the clean one
    by beta, or to it, and cuts to the box. The smallest c that fools is looked for as in
    ``CWL2``; what is handed back is the nearest image in L1, the paper's L1 decision rule. Paper:
    arXiv:1709.04114, algorithm 1. Cost: ``2 * steps`` forward and ``steps`` backward passes an
    image, and one forward pass.

    Args:
        eps: radius of what counts as found, in L1; infinite by default.
        steps: number of steps of all searches together.
        searches: number of values of c.
        lr: first step size alpha.
        beta: by how much a step shrinks each change, in pixel units; more is nearer in L1.
        c: the first value of c.
        kappa: by how much the wrong class is to lead, in logits.
    """

    eps: float = float("inf")
    steps: int = 9000
    searches: int = 9
    lr: float = 0.01
    beta: float = 1e-3
    c: float = 1e-3
    kappa: float = 0.0
    norm: str = field(default="l1", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("searches", self.searches, 1)
        checks.at_least("steps", self.steps, self.searches)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("beta", self.beta, 0)
        checks.in_range("c", self.c, 0)
        checks.in_range("kappa", self.kappa, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Elastic:
        number = x.new_zeros(len(x), 1, 1, 1)
        return Elastic(
            x_adv=x,
            ahead=x,
            x=x,
            c=number + self.c,
            low=number,
            high=number + torch.inf,
            fooled=number > 0,
            age=torch.zeros(len(x), dtype=torch.int64, device=x.device),
        )

    def step(self, state: Elastic, oracle: Oracle) -> Elastic:
        iterations = self.steps // self.searches
        ended = wide((state.age > 0) & (state.age % iterations == 0))
        c, low, high = next_weight(state.c, state.low, state.high, state.fooled, ended)
        x = state.x
        before, ahead = (torch.where(ended, x, point) for point in (state.x_adv, state.ahead))
        k = wide(state.age % iterations).to(x)

        lead, gradient = oracle.gradient(ahead, margin)
        slope = 2 * (ahead - x) - c * wide(lead < self.kappa) * gradient
        change = ahead - self.lr * (1 - k / iterations).sqrt() * slope - x
        shrunk = (change.abs() - self.beta).clamp(min=0)
        x_adv = torch.where(shrunk > 0, (x + change.sign() * shrunk).clamp(0, 1), x)
        oracle.logits(x_adv)
        # Cut to the box, which the paper does not ask: nobody knows the classifier beyond it.
        ahead = (x_adv + k / (k + 3) * (x_adv - before)).clamp(0, 1)
        fooled = (state.fooled & ~ended) | wide(oracle.fooled)
        return Elastic(x_adv, ahead, x, c, low, high, fooled, state.age + 1)

    def best(self, state: Elastic) -> Tensor:
        return state.x_adv
