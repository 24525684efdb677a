"""SimBA: one pixel after another, up or down, whatever lowers the confidence."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, l2_distance
from bezoar.seeds import Noise, hashed


class Found(NamedTuple):
    """The best image so far, the clean one, the margin of the best, pixels tried, their order."""

    x_adv: Tensor
    x: Tensor
    value: Tensor
    age: Tensor
    order: Tensor


@dataclass(frozen=True, kw_only=True)
class SimBA(Attack):
    r"""Simple black-box attack in the pixel basis.

    For one value q after another, in random order without repetition: try :math:`x + \alpha q`,
    else :math:`x - \alpha q`, and keep what raises the margin :math:`\max_{j \ne y} z_j - z_y`.
    Stops at the first image that fools; T steps change it by at most :math:`\alpha\sqrt T` in L2.
    When every value was tried, the order begins again. Paper: arXiv:1905.07121, algorithm 1.
    Cost: two forward passes a step, and one or two.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of values tried.
        step_size: the change alpha, in pixel units of [0, 1].
    """

    eps: float = float("inf")
    steps: int = 1000
    step_size: float = 0.2
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("step_size", self.step_size, 0, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Found:
        key = noise.keys().to(x.device)
        age = torch.zeros_like(key)
        order = hashed(key, age, (x[0].numel(),)).argsort(dim=1)
        return Found(x, x, margin(oracle.logits(x), oracle.goal), age, order)

    def step(self, state: Found, oracle: Oracle) -> Found:
        x, value = state.x_adv, state.value
        place = state.order.gather(1, (state.age % state.order.shape[1]).unsqueeze(1))
        q = torch.zeros_like(x).flatten(1).scatter(1, place, self.step_size).reshape(x.shape)
        for tried in ((x + q).clamp(0, 1), (x - q).clamp(0, 1)):
            found = margin(oracle.logits(tried), oracle.goal)
            better = found > value
            value = torch.where(better, found, value)
            x = chosen(better, tried, x)
        return Found(x, state.x, value, state.age + 1, state.order)

    def best(self, state: Found) -> Tensor:
        inside = l2_distance(state.x_adv, state.x) <= self.eps
        return chosen(inside, state.x_adv, state.x)
