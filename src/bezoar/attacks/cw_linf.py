"""The attack of Carlini and Wagner in Linf."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.cw_l2 import DECAYS
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import norms_linf, wide
from bezoar.seeds import Noise

SHRINK = 0.9  # of tau, after each success
LARGEST = 1e10  # weight of the loss


class Tightening(NamedTuple):
    """State of every image; images ``(N, C, H, W)``, numbers ``(N, 1, 1, 1)`` but ``age``.

    Attributes:
        x_adv: where each image is.
        x: the clean image.
        mean, square: moments of Adam.
        c: weight of the loss.
        tau: how large a change is free.
        age: steps taken with this c and tau, ``(N,)``.
    """

    x_adv: Tensor
    x: Tensor
    mean: Tensor
    square: Tensor
    c: Tensor
    tau: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class CWLinf(Attack):
    r"""Penalise all that a change has beyond tau, and tighten tau while the image still fools.

    .. math::
        \min_\delta\; c\,\max\bigl(z_y - \max_{j \ne y} z_j, 0\bigr)
            + \sum_i (|\delta_i| - \tau)^+

    by Adam, cut to the box after each step. Once the image fools and no change is beyond tau, tau
    becomes 0.9 of the largest change; where ``iterations`` steps do not lead there, c is doubled.
    Both go on from where the image is. Paper: arXiv:1608.04644, section VI.C, with the first of the
    three ways into the box of section V.B. Cost: ``steps`` forward and backward passes an image and
    one forward pass.

    Args:
        eps: radius of what counts as found, in pixel units; infinite by default.
        steps: number of steps altogether.
        iterations: number of steps with one c and tau, at most.
        lr: learning rate of Adam.
        c: the first weight of the loss.
    """

    eps: float = float("inf")
    steps: int = 2000
    iterations: int = 100
    lr: float = 0.01
    c: float = 1e-3
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("iterations", self.iterations, 1)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("c", self.c, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Tightening:
        zero, number = torch.zeros_like(x), x.new_zeros(len(x), 1, 1, 1)
        age = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Tightening(x, x, zero, zero, number + self.c, number + 1, age)

    def step(self, state: Tightening, oracle: Oracle) -> Tightening:
        lead, gradient = oracle.gradient(state.x_adv, margin)
        fooled, change = wide(lead > 0), state.x_adv - state.x
        largest = norms_linf(change)
        solved = fooled & (largest <= state.tau)
        tried = ~solved & wide(state.age >= self.iterations)
        tau = torch.where(solved, SHRINK * largest, state.tau)
        c = torch.where(tried, (2 * state.c).clamp(max=LARGEST), state.c)
        fresh = solved | tried
        age = torch.where(fresh.flatten(), 0, state.age)

        beyond = change.sign() * (change.abs() > tau)
        slope = beyond - torch.where(fooled, 0, c * gradient)
        first, second = DECAYS
        mean = first * torch.where(fresh, 0, state.mean) + (1 - first) * slope
        square = second * torch.where(fresh, 0, state.square) + (1 - second) * slope.square()
        k = wide(age + 1).to(change)
        along = (mean / (1 - first**k)) / ((square / (1 - second**k)).sqrt() + 1e-8)
        x_adv = (state.x_adv - self.lr * along).clamp(0, 1)
        return Tightening(x_adv, state.x, mean, square, c, tau, age + 1)

    def best(self, state: Tightening) -> Tensor:
        return state.x_adv
