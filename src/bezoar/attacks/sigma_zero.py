"""Sigma-zero: gradient steps under a smooth stand-in for the number of changed values."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import norms_linf, wide
from bezoar.seeds import Noise

DECAYS = (0.9, 0.999)  # of Adam


class Sparse(NamedTuple):
    """Where each image is, the clean image, moments of Adam, tau ``(N, 1, 1, 1)``, steps taken."""

    x_adv: Tensor
    x: Tensor
    mean: Tensor
    square: Tensor
    threshold: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Attack):
    r"""Descend the loss and a smooth L0 norm together, and drop the changes below a threshold.

    .. math::
        g = \nabla_\delta \Bigl[\max\bigl(z_y - \max_{j \ne y} z_j, 0\bigr)
            + \frac1d \sum_i \frac{\delta_i^2}{\delta_i^2 + \sigma}\Bigr], \qquad
        \delta \leftarrow \Pi_\tau\Bigl(\mathrm{clip}\bigl(x + \delta
            - \eta_k\, \mathrm{Adam}(g / \lVert g\rVert_\infty)\bigr) - x\Bigr), \qquad
        \tau \leftarrow \tau \pm t\,\eta_k

    with d the number of values of an image, :math:`\Pi_\tau` the change without its entries
    smaller than tau, a cosine schedule of eta from ``lr`` to a tenth of it, and plus where the
    image fools. Paper: arXiv:2402.01879, algorithm 1, which steps along the gradient itself; with
    Adam, as its authors released it, it changes fewer values. Cost: ``steps`` forward and backward
    passes an image and one forward pass.

    Args:
        eps: how many values may change for an image to count as found; infinite by default.
        steps: number of steps.
        lr: first learning rate eta of Adam.
        sigma: sharpness of the stand-in: a change of its square root counts one half.
        threshold: the first tau, in pixel units of [0, 1].
        threshold_step: the share t of a step by which tau rises or falls.
    """

    eps: float = float("inf")
    steps: int = 1000
    lr: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    threshold_step: float = 0.01
    norm: str = field(default="l0", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("sigma", self.sigma, 1e-12)
        checks.in_range("threshold", self.threshold, 0, 1)
        checks.in_range("threshold_step", self.threshold_step, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Sparse:
        zero = torch.zeros_like(x)
        age = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Sparse(x, x, zero, zero, x.new_full((len(x), 1, 1, 1), self.threshold), age)

    def step(self, state: Sparse, oracle: Oracle) -> Sparse:
        x, change = state.x, state.x_adv - state.x
        value, gradient = oracle.gradient(state.x_adv, margin)
        fooled = wide(value > 0)
        age = wide(state.age).to(x)
        eta = self.lr * (0.1 + 0.9 * (1 + torch.cos(math.pi * age / self.steps)) / 2)
        # The clean image says nothing about tau: it follows what the steps so far have led to.
        rate = self.threshold_step * eta * (age > 0)
        tau = (state.threshold + torch.where(fooled, rate, -rate)).clamp(0, 1)

        of_norm = 2 * self.sigma * change / (change.square() + self.sigma).square() / x[0].numel()
        slope = of_norm - torch.where(fooled, 0, gradient)
        slope = slope / norms_linf(slope).clamp(min=torch.finfo(x.dtype).tiny)
        first, second = DECAYS
        mean = first * state.mean + (1 - first) * slope
        square = second * state.square + (1 - second) * slope.square()
        unbiased, spread = mean / (1 - first ** (age + 1)), square / (1 - second ** (age + 1))
        along = unbiased / (spread.sqrt() + 1e-8)
        moved = (state.x_adv - eta * along).clamp(0, 1)
        x_adv = torch.where((moved - x).abs() < tau, x, moved)
        return Sparse(x_adv, x, mean, square, tau, state.age + 1)

    def best(self, state: Sparse) -> Tensor:
        return state.x_adv
