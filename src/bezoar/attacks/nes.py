"""NES: signed steps along a gradient that is estimated from scores."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import linf_radius, project_linf, wide
from bezoar.seeds import Noise, hashed_normal


class Walk(NamedTuple):
    """Where each image is, the clean image, steps taken and the key of its noise."""

    x_adv: Tensor
    x: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class NES(Attack):
    r"""Projected gradient descent on an estimate from pairs of scores.

    .. math::
        \hat g = \frac{1}{\sigma n} \sum_{i=1}^{n/2}
        \bigl(L(f(x_t + \sigma u_i)) - L(f(x_t - \sigma u_i))\bigr)\,u_i, \qquad
        x_{t+1} = \Pi_\epsilon\bigl(x_t + \alpha\,\mathrm{sign}\,\hat g\bigr)

    with :math:`u_i \sim \mathcal N(0, I)` and L the margin of the logits; the points asked about
    are cut to the image box. Paper:
    arXiv:1804.08598, section 2.2. Cost: ``1 + samples`` forward passes a step, and one.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps.
        samples: scores asked for a step, n, even; one more sees whether the image fools yet.
        sigma: how far around the scores are asked, in pixel units.
        step_size: the length alpha, in pixel units; ``None`` is 2.5 eps / steps.
    """

    eps: float = 0.1
    steps: int = 100
    samples: int = 50
    sigma: float = 0.001
    step_size: float | None = None
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("samples", self.samples, 2)
        if self.samples % 2:
            raise ValueError(f"samples={self.samples}: expected an even number; they go in pairs")
        checks.in_range("sigma", self.sigma, 1e-6)
        if self.step_size is not None:
            checks.in_range("step_size", self.step_size, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        key = noise.keys().to(x.device)
        return Walk(x, x, torch.zeros_like(key), key)

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        x, pairs = state.x_adv, self.samples // 2
        oracle.logits(x)
        estimate = torch.zeros_like(x)
        for i in range(pairs):
            u = hashed_normal(state.key, state.age * pairs + i, x.shape[1:]).to(x)
            up, down = (
                margin(oracle.logits((x + side * self.sigma * u).clamp(0, 1)), oracle.goal)
                for side in (1, -1)
            )
            estimate += wide(up - down) * u
        eps = linf_radius(self.eps)
        alpha = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        x_adv = project_linf(x + alpha * estimate.sign(), state.x, eps)
        return Walk(x_adv, state.x, state.age + 1, state.key)

    def best(self, state: Walk) -> Tensor:
        return state.x_adv
