"""L-BFGS: distance and loss together, by a quasi-Newton method in the image box."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Goal, Oracle
from bezoar.seeds import Noise


class Search(NamedTuple):
    """The last minimiser and the clean image, and c between ``low`` and ``high``, ``(N,)``."""

    x_adv: Tensor
    x: Tensor
    c: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, kw_only=True)
class LBFGS(Attack):
    r"""Minimise distance and loss together in the box, and search for their balance.

    .. math::
        \min_{x' \in [0, 1]^d}\; \lVert x' - x\rVert_2^2 - c \log P(x')

    with P the probability that the goal is reached: that of the target, or 1 less that of the
    class to leave. The smallest c that fools is looked for by multiplying it by 10 until it does
    and halving the interval from then on. Paper: arXiv:1312.6199, section 4.1, for a target; its c
    is the inverse of this one and its distance is not squared, which has no gradient at x.

    The minimiser is scipy's, in float64 and image by image, so neither the batch nor the device
    makes it faster. Cost: a step is one c, at most ``iterations`` iterations of as a rule one
    forward and backward pass, and a forward pass. One more in the end.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of values of c.
        iterations: of L-BFGS-B for each c; its line searches may ask several times in one.
        c: the first value of c.
    """

    eps: float = float("inf")
    steps: int = 15
    iterations: int = 50
    c: float = 0.01
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("iterations", self.iterations, 1)
        checks.in_range("c", self.c, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Search:
        none = x.new_zeros(len(x))
        return Search(x, x, none + self.c, none, none + torch.inf)

    def step(self, state: Search, oracle: Oracle) -> Search:
        found, fooled = [], []
        for row in torch.arange(len(state.x), device=state.x.device).split(1):
            alone = oracle.of(row)
            found.append(self._minimiser(state.x[row], state.c[row].item(), alone))
            alone.logits(found[-1])
            fooled.append(alone.fooled)
        there = torch.cat(fooled)
        low = torch.where(there, state.low, state.c)
        high = torch.where(there, state.c, state.high)
        c = torch.where(high < torch.inf, (low + high) / 2, 10 * state.c)
        return Search(torch.cat(found), state.x, c, low, high)

    def best(self, state: Search) -> Tensor:
        return state.x_adv

    def _minimiser(self, x: Tensor, c: float, oracle: Oracle) -> Tensor:
        """What scipy finds for one image, ``(1, C, H, W)``."""
        clean = x.double().cpu().numpy().ravel()

        def image(point: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(point).to(x).reshape(x.shape)

        def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            loss, gradient = oracle.gradient(image(point), reluctance)
            change = point - clean
            slope = 2 * change + c * gradient.double().cpu().numpy().ravel()
            return float(change @ change + c * loss.item()), slope

        box = [(0.0, 1.0)] * clean.size
        options = {"maxiter": self.iterations}
        end = minimize(objective, clean, jac=True, method="L-BFGS-B", bounds=box, options=options)
        return image(end.x)


def reluctance(logits: Tensor, goal: Goal) -> Tensor:
    r"""Minus the log of the probability that the goal is reached, ``(N,)``.

    Towards a class it is the cross-entropy. Away from one it is that of all others together: the
    cross-entropy of the class itself, with a minus, has no bound, and falls ever faster on the
    way to the border, so that its minimiser would leap over it.
    """
    if goal.sign < 0:
        return F.cross_entropy(logits, goal.aim, reduction="none")
    others = logits.scatter(1, goal.aim.unsqueeze(1), -float("inf"))
    return logits.logsumexp(dim=1) - others.logsumexp(dim=1)
