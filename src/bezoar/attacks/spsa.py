"""SPSA: Adam on a gradient that is estimated from scores in random directions of signs."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import linf_radius, project_linf, wide
from bezoar.seeds import Noise, hashed

DECAYS = (0.9, 0.999)  # of Adam


class Descent(NamedTuple):
    """Where each image is, the clean image, the moments of Adam, steps taken, key of its noise."""

    x_adv: Tensor
    x: Tensor
    mean: Tensor
    square: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class SPSA(Attack):
    r"""Simultaneous perturbation: every pixel moves at once, by chance up or down.

    .. math::
        \hat g = \frac{1}{2 \delta n} \sum_{i=1}^{n}
        \bigl(L(f(x_t + \delta v_i)) - L(f(x_t - \delta v_i))\bigr)\,v_i, \qquad
        v_i \in \{-1, 1\}^d

    with L the margin of the logits, followed by a step of Adam uphill and the projection onto the
    ball; the points asked about are cut to the image box. Paper: arXiv:1802.05666, section 4.
    Cost: ``1 + 2 * samples`` forward passes a step, and one.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps.
        samples: number n of directions a step.
        delta: how far around the scores are asked, in pixel units.
        lr: learning rate of Adam.
    """

    eps: float = 0.1
    steps: int = 100
    samples: int = 128
    delta: float = 0.01
    lr: float = 0.01
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("samples", self.samples, 1)
        checks.in_range("delta", self.delta, 1e-6)
        checks.in_range("lr", self.lr, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Descent:
        key, zero = noise.keys().to(x.device), torch.zeros_like(x)
        return Descent(x, x, zero, zero, torch.zeros_like(key), key)

    def step(self, state: Descent, oracle: Oracle) -> Descent:
        x = state.x_adv
        oracle.logits(x)
        slope = torch.zeros_like(x)
        for i in range(self.samples):
            draw = hashed(state.key, state.age * self.samples + i, x.shape[1:])
            v = torch.where(draw < 0.5, -1.0, 1.0).to(x)
            up, down = (
                margin(oracle.logits((x + side * self.delta * v).clamp(0, 1)), oracle.goal)
                for side in (1, -1)
            )
            slope += wide(up - down) * v / (2 * self.delta * self.samples)
        first, second = DECAYS
        mean = first * state.mean + (1 - first) * slope
        square = second * state.square + (1 - second) * slope.square()
        k = wide(state.age + 1).to(x)
        up_hill = (mean / (1 - first**k)) / ((square / (1 - second**k)).sqrt() + 1e-8)
        x_adv = project_linf(x + self.lr * up_hill, state.x, linf_radius(self.eps))
        return Descent(x_adv, state.x, mean, square, state.age + 1, state.key)

    def best(self, state: Descent) -> Tensor:
        return state.x_adv
