"""JSMA: change the pair of values that the Jacobian calls most salient, again and again."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Goal, Oracle, rivals
from bezoar.geometry import l0_distance, wide
from bezoar.seeds import Noise


class Walk(NamedTuple):
    """Where each image is and the clean image, ``(N, C, H, W)``, and the target, ``(N,)``."""

    x_adv: Tensor
    x: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    r"""Move two values at a time by theta: those whose saliency towards the target t is largest.

    .. math::
        \max_{p < q}\; -\alpha_{pq}\,\beta_{pq} \quad\text{where}\quad
        \alpha_{pq} = \sum_{i \in \{p, q\}} \frac{\partial z_t}{\partial x_i} > 0, \qquad
        \beta_{pq} = \sum_{i \in \{p, q\}} \sum_{j \ne t} \frac{\partial z_j}{\partial x_i} < 0

    with z the logits; of a negative theta both signs turn. Values at the end of the box are left
    out. An image stays as it is once it fools, once no pair is left, or once the next pair would
    break the budget. Paper: arXiv:1511.07528, algorithms 2 and 3.

    The paper leads to a class that is given. Without one, the r-th restart leads to the wrong
    class with the r-th highest logit. Cost: two forward and two backward passes a step, until the
    image is fooled, and one or two forward passes a restart.

    Args:
        eps: how many values may change, each channel of a pixel on its own; infinite by default.
        steps: number of pairs. The paper allows 14.5 % of the values, 56 pairs of MNIST.
        theta: by how much a value changes, in [-1, 1]; above 0 it makes them brighter.
        restarts: number of targets, where none is given.
    """

    eps: float = float("inf")
    steps: int = 56
    theta: float = 1.0
    restarts: int = 1
    norm: str = field(default="l0", init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.in_range("theta", self.theta, -1, 1)
        if not self.theta:
            raise ValueError(f"theta={self.theta!r}: expected a change, above or below 0")

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        if oracle.goal.sign < 0:
            return Walk(x, x, oracle.goal.aim)
        return Walk(x, x, rivals(oracle, x, torch.from_numpy(noise.draws).to(x.device)))

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        def towards(logits: Tensor, goal: Goal) -> Tensor:
            return logits.gather(1, state.target.unsqueeze(1)).squeeze(1)

        def others(logits: Tensor, goal: Goal) -> Tensor:
            return logits.sum(dim=1) - towards(logits, goal)

        # Two sums of the Jacobian are all that is asked of it, so K backward passes become two.
        alpha, beta = (oracle.gradient(state.x_adv, of)[1] for of in (towards, others))
        there = wide(oracle.fooled)
        free = state.x_adv < 1 if self.theta > 0 else state.x_adv > 0
        sign = 1.0 if self.theta > 0 else -1.0
        gain, loss = (
            torch.where(free, part, -torch.inf).flatten(1) for part in (sign * alpha, -sign * beta)
        )
        pair, saliency = salient_pair(gain, loss)
        change = torch.zeros_like(gain).scatter(1, pair, self.theta).reshape(state.x.shape)
        moved = (state.x_adv + change).clamp(0, 1)
        goes = (saliency > 0) & (l0_distance(moved, state.x) <= self.eps)
        x_adv = torch.where(wide(goes) & ~there, moved, state.x_adv)
        return state._replace(x_adv=x_adv)

    def best(self, state: Walk) -> Tensor:
        return state.x_adv


def salient_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""The pair with the largest :math:`(a_p + a_q)(b_p + b_q)`, both sums above 0.

    Only values that fewer than two others beat in both a and b are tried. For say that r beats p,
    and is not q: with r in place of p neither sum falls, and so neither does the product. So of
    the best pairs one is of such values alone. They are few as a rule, and all d at worst; the
    memory is O(N d) in any case, where all pairs would be O(N d^2).

    Args:
        a: ``(N, d)``; -inf for values that may not be chosen.
        b: ``(N, d)``, -inf where a is.

    Returns:
        The pair, ``(N, 2)`` int64, and its product, ``(N,)``, or 0 where no pair is admissible.
    """
    order = a.argsort(dim=1, descending=True, stable=True)
    a, b = a.gather(1, order), b.gather(1, order)
    # Those before a value in this order beat it in a, so it is beaten twice if the second
    # largest b before it is no smaller. Each value that comes drives its loser to second place.
    never = torch.full_like(b[:, :1], -torch.inf)
    largest = torch.cat([never, b.cummax(dim=1).values[:, :-1]], dim=1)
    second = torch.minimum(b, largest).cummax(dim=1).values
    kept = b > torch.cat([never, second[:, :-1]], dim=1)

    width = max(2, int(kept.sum(dim=1).max()))
    front = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    chosen = kept.gather(1, front)
    a, b = (torch.where(chosen, t.gather(1, front), -torch.inf) for t in (a, b))
    pair = torch.zeros(len(a), 2, dtype=torch.int64, device=a.device)
    best = a.new_zeros(len(a))
    for p in range(front.shape[1] - 1):
        first, second = a[:, p, None] + a[:, p + 1 :], b[:, p, None] + b[:, p + 1 :]
        product = torch.where((first > 0) & (second > 0), first * second, 0)
        value, q = product.max(dim=1)
        better = value > best
        found = torch.stack([torch.full_like(q, p), q + p + 1], dim=1)
        pair = torch.where(better[:, None], found, pair)
        best = torch.where(better, value, best)
    return order.gather(1, front.gather(1, pair)), best
