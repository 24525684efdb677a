"""DeepFool: step to the nearest border of the linearised classifier until it is crossed."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Oracle, require_away
from bezoar.geometry import DISTANCES, chosen, norms_l1, norms_l2, wide
from bezoar.seeds import Noise

NORMS = ("l2", "linf")
BEYOND = 1e-4  # of a difference of logits


class Walk(NamedTuple):
    """Where each image is, the clean image, the sum of the steps, and the classes ``(N, M)``."""

    x_adv: Tensor
    x: Tensor
    change: Tensor
    classes: Tensor


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    r"""Newton steps to the nearest class border, in L2 or Linf.

    .. math::
        \hat l = \arg\min_{k \ne y} \frac{|f_k|}{\lVert w_k\rVert_q}, \qquad
        r_i = \frac{|f_{\hat l}|}{\lVert w_{\hat l}\rVert_q^q}\,|w_{\hat l}|^{q-1}
              \mathrm{sign}(w_{\hat l}), \qquad
        x_{i+1} = x + (1 + \eta) \sum_{j \le i} r_j

    with :math:`f_k = z_k - z_y`, :math:`w_k` its gradient, and q dual to the norm (2 for L2, 1 for
    Linf). Stops at the first image that fools. Paper: arXiv:1511.04599, algorithm 2 and section
    3.3. Cost: a forward and ``classes`` backward passes a step, until the image is fooled, and two
    forward passes.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``l2`` or ``linf``.
        steps: number of steps.
        overshoot: the share eta by which each step goes too far.
        classes: how many classes, by their logits on the clean image, are candidates; with the
            image's own.
    """

    eps: float = float("inf")
    norm: str = "l2"
    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, NORMS)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("overshoot", self.overshoot, 0)
        checks.at_least("classes", self.classes, 2)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        require_away(oracle.goal)
        logits = oracle.logits(x).scatter(1, oracle.goal.aim.unsqueeze(1), float("inf"))
        classes = logits.topk(min(self.classes, logits.shape[1]), dim=1).indices
        return Walk(x, x, torch.zeros_like(x), classes)

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        logits, slopes = oracle.jacobian(state.x_adv, state.classes)
        z = logits.gather(1, state.classes)  # column 0 is the class to leave
        f, w = z[:, 1:] - z[:, :1], slopes[:, 1:] - slopes[:, :1]
        norms = norms_l2 if self.norm == "l2" else norms_l1
        length = norms(w.flatten(0, 1)).reshape(f.shape).clamp(min=1e-12)
        nearest = (f.abs() / length).argmin(dim=1, keepdim=True)
        ahead = w.gather(1, nearest.reshape(-1, 1, 1, 1, 1).expand(-1, 1, *w.shape[2:])).squeeze(1)
        span, gap = (wide(t.gather(1, nearest)) for t in (length, f.abs()))
        # A hair further than the border: steps that the box cuts short would only come near it.
        unit = ahead / span if self.norm == "l2" else ahead.sign()
        change = state.change + (gap + BEYOND) / span * unit
        change = (state.x + change).clamp(0, 1) - state.x  # what the box cuts off leads nowhere
        x_adv = (state.x + (1 + self.overshoot) * change).clamp(0, 1)
        there = wide(oracle.fooled)
        return Walk(
            torch.where(there, state.x_adv, x_adv),
            state.x,
            torch.where(there, state.change, change),
            state.classes,
        )

    def best(self, state: Walk) -> Tensor:
        inside = DISTANCES[self.norm](state.x_adv, state.x) <= self.eps
        return chosen(inside, state.x_adv, state.x)
