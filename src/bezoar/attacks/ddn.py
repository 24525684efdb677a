"""DDN: decouple the direction of the change from its norm."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import direction_l2, norms_l2, wide
from bezoar.seeds import Noise


class Sphere(NamedTuple):
    """Where each image is, the clean image, the radius ``(N, 1, 1, 1)`` and steps taken."""

    x_adv: Tensor
    x: Tensor
    radius: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    r"""Gradient steps on a sphere that shrinks while the image fools and grows while it does not.

    .. math::
        \epsilon_k = (1 \mp \gamma)\,\epsilon_{k-1}, \qquad
        \delta_k = \epsilon_k \frac{d}{\lVert d\rVert_2}, \qquad
        d = \delta_{k-1} + \alpha_k \frac{\nabla_x L}{\lVert\nabla_x L\rVert_2}

    with the cosine schedule of alpha from 1 to 0.01, cut to the box. Paper: arXiv:1811.09600,
    algorithm 1, without its rounding to 8 bits. Cost: ``steps`` forward and backward passes an
    image and one forward pass.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of steps.
        gamma: share by which the sphere shrinks or grows.
        radius: of the first sphere.
    """

    eps: float = float("inf")
    steps: int = 100
    gamma: float = 0.05
    radius: float = 1.0
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("gamma", self.gamma, 0, 1)
        checks.in_range("radius", self.radius, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Sphere:
        age = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Sphere(x, x, x.new_full((len(x), 1, 1, 1), self.radius), age)

    def step(self, state: Sphere, oracle: Oracle) -> Sphere:
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        turn = torch.where(oracle.fooled, 1 - self.gamma, 1 + self.gamma).to(state.x)
        radius = state.radius * wide(turn)
        share = (1 + torch.cos(math.pi * state.age / self.steps)) / 2
        alpha = wide(0.01 + 0.99 * share).to(state.x)
        change = state.x_adv - state.x + alpha * direction_l2(gradient)
        change = radius * change / norms_l2(change).clamp(min=1e-12)
        return Sphere((state.x + change).clamp(0, 1), state.x, radius, state.age + 1)

    def best(self, state: Sphere) -> Tensor:
        return state.x_adv
