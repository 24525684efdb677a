"""FMN: fast minimum-norm attacks, one method for L1, L2 and Linf."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import (
    direction_l2,
    norms_l1,
    norms_l2,
    norms_linf,
    shorten_l1,
    shorten_l2,
    shorten_linf,
    wide,
)
from bezoar.seeds import Noise

Norm = Callable[[Tensor], Tensor]
Shorten = Callable[[Tensor, Tensor], Tensor]

# By norm: itself, its dual, the projection onto its ball.
NORMS: Mapping[str, tuple[Norm, Norm, Shorten]] = MappingProxyType(
    {
        "linf": (norms_linf, norms_l1, shorten_linf),
        "l2": (norms_l2, norms_l2, shorten_l2),
        "l1": (norms_l1, norms_linf, shorten_l1),
    }
)


class Shrinking(NamedTuple):
    """Where each image is, the clean image, radius of the ball, smallest norm that fooled, age."""

    x_adv: Tensor
    x: Tensor
    radius: Tensor
    smallest: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    r"""Gradient steps in a ball whose radius follows the distance to the border.

    .. math::
        \epsilon_k = \begin{cases}
        \lVert\delta_{k-1}\rVert_p + |L| / \lVert\nabla L\rVert_q & \text{not fooled yet} \\
        (1 + \gamma_k)\,\epsilon_{k-1} & \text{fooled before, not now} \\
        (1 - \gamma_k)\min(\epsilon_{k-1}, \lVert\delta^*\rVert_p) & \text{fooled}
        \end{cases} \qquad
        \delta_k = \Pi_{\epsilon_k}\Bigl(\delta_{k-1}
        + \alpha_k \frac{\nabla L}{\lVert\nabla L\rVert_2}\Bigr)

    with L the margin, q dual to p, :math:`\delta^*` the smallest change that fooled, and cosine
    schedules of alpha from ``step_size`` and of gamma from ``gamma``, both to nearly 0. Entries of
    the gradient that lead out of the box are left out. Paper: arXiv:2102.12827, algorithm 1. Cost:
    ``steps`` forward and backward passes an image and one forward pass.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``linf``, ``l2`` or ``l1``.
        steps: number of steps.
        step_size: first length alpha of a step, in L2.
        gamma: first share by which the ball shrinks or grows.
    """

    eps: float = float("inf")
    norm: str = "linf"
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, NORMS)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("step_size", self.step_size, 0)
        checks.in_range("gamma", self.gamma, 0, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Shrinking:
        never = x.new_full((len(x), 1, 1, 1), torch.inf)
        age = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Shrinking(x, x, never, never, age)

    def step(self, state: Shrinking, oracle: Oracle) -> Shrinking:
        norms, dual, shorten = NORMS[self.norm]
        value, gradient = oracle.gradient(state.x_adv, margin)
        # What leads out of the box would be cut away, and in L1 nothing else might be left.
        out = ((state.x_adv <= 0) & (gradient < 0)) | ((state.x_adv >= 1) & (gradient > 0))
        gradient = torch.where(out, 0, gradient)
        change = state.x_adv - state.x
        size, fooled = norms(change), wide(value > 0)
        before = state.smallest < torch.inf
        smallest = torch.where(fooled, torch.minimum(size, state.smallest), state.smallest)

        falling = (1 + torch.cos(math.pi * state.age / self.steps)) / 2
        gamma = wide(0.001 * self.gamma + 0.999 * self.gamma * falling).to(value)
        alpha = wide(1e-5 * self.step_size + (1 - 1e-5) * self.step_size * falling).to(value)
        # A hair beyond the border, on which rounding would decide.
        guessed = size + 1.0001 * wide(value.abs()) / dual(gradient).clamp(min=1e-12) + 1e-6
        grown = torch.where(before, (1 + gamma) * state.radius, guessed)
        radius = torch.where(fooled, (1 - gamma) * torch.minimum(state.radius, smallest), grown)

        moved = shorten(change + alpha * direction_l2(gradient), radius)
        x_adv = (state.x + moved).clamp(0, 1)
        return Shrinking(x_adv, state.x, radius, smallest, state.age + 1)

    def best(self, state: Shrinking) -> Tensor:
        return state.x_adv
