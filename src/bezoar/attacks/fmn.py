"""FMN: fast minimum-norm attacks, one method for L0, L1, L2 and Linf."""

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
    norms_l0,
    norms_l1,
    norms_l2,
    norms_linf,
    shorten_l0,
    shorten_l1,
    shorten_l2,
    shorten_linf,
    wide,
)
from bezoar.seeds import Noise

Norm = Callable[[Tensor], Tensor]
Shorten = Callable[[Tensor, Tensor], Tensor]

# By norm: itself, its dual, the projection onto its ball. L0 is no norm and has no dual: its ball
# grows and shrinks by whole values, and no radius is guessed from the gradient.
NORMS: Mapping[str, tuple[Norm, Norm | None, Shorten]] = MappingProxyType(
    {
        "linf": (norms_linf, norms_l1, shorten_linf),
        "l2": (norms_l2, norms_l2, shorten_l2),
        "l1": (norms_l1, norms_linf, shorten_l1),
        "l0": (norms_l0, None, shorten_l0),
    }
)


ALPHA, GAMMA = 0.01, 0.001  # what is left of step_size, and of gamma, after all steps


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
    schedules of alpha, from ``step_size`` to a hundredth of it, and of gamma, to 0.001. In L0 the
    ball holds whole numbers of values: it begins with one, also grows by :math:`\gamma_k` while
    nothing has fooled yet, is rounded down, and always changes by at least one. Entries of the
    gradient that lead out of the box are left out. Paper: arXiv:2102.12827, algorithm 1. Cost:
    ``steps`` forward and backward passes an image and one forward pass.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``linf``, ``l2``, ``l1`` or ``l0``, the number of changed values.
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
        nothing = x.new_zeros(len(x), 1, 1, 1)
        age = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Shrinking(x, x, nothing, nothing + torch.inf, age)

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
        last = min(GAMMA, self.gamma)
        gamma = wide(last + (self.gamma - last) * falling).to(value)
        alpha = wide(self.step_size * (ALPHA + (1 - ALPHA) * falling)).to(value)
        least = torch.minimum(state.radius, smallest)
        grown, shrunk = (1 + gamma) * state.radius, (1 - gamma) * least
        if dual is None:
            grown = torch.maximum(grown.floor(), state.radius + 1)
            shrunk = torch.minimum(shrunk.floor(), least - 1).clamp(min=0)
        else:
            # A hair beyond the border, on which rounding would decide.
            guessed = size + 1.0001 * wide(value.abs()) / dual(gradient).clamp(min=1e-12) + 1e-6
            grown = torch.where(before, grown, guessed)
        radius = torch.where(fooled, shrunk, grown)

        moved = shorten(change + alpha * direction_l2(gradient), radius)
        x_adv = (state.x + moved).clamp(0, 1)
        return Shrinking(x_adv, state.x, radius, smallest, state.age + 1)

    def best(self, state: Shrinking) -> Tensor:
        return state.x_adv
