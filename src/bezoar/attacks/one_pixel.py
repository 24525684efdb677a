"""One pixel: differential evolution of the place and the colour of very few pixels."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, l0_distance
from bezoar.seeds import Noise, hashed, hashed_normal

WEIGHT = 0.5  # of the difference of two members
POINTS = 256  # asked about in a pass, or as many as there are images


class Population(NamedTuple):
    """The candidates of every image, S of them.

    Attributes:
        x: the clean image, ``(N, C, H, W)``.
        genes: row and column as shares of the sides, then the colour, of each pixel,
            ``(N, S, pixels, 2 + C)`` in [0, 1].
        value: the loss of each candidate, ``(N, S)``.
        age: generations so far, ``(N,)``.
        key: of the noise, ``(N,)``.
    """

    x: Tensor
    genes: Tensor
    value: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class OnePixel(Attack):
    r"""Differential evolution over images that differ in few pixels.

    A candidate lists place and colour of each pixel that it sets. In every generation each has a
    child, which takes its place if its loss is higher:

    .. math::
        x_i' = x_{r_1} + 0.5\,(x_{r_2} - x_{r_3})

    with :math:`r_1, r_2, r_3` random and different, no crossover, and the cross-entropy as the
    loss. An entry that leaves [0, 1] is drawn anew. The first places are uniform, the first colours
    of mean and deviation 0.5, normal, cut to [0, 1]. Paper: arXiv:1710.08864, section 3. Cost:
    ``population`` forward passes an image and a step, as many at the start, and one that judges
    the best; no backward pass.

    Args:
        eps: number of values that may change for an image to count, infinite by default; a pixel
            has as many as the image has channels.
        steps: number of generations.
        pixels: how many pixels are set, at most.
        population: number of candidates, at least 3.
    """

    eps: float = float("inf")
    steps: int = 100
    pixels: int = 1
    population: int = 400
    norm: str = field(default="l0", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("pixels", self.pixels, 1)
        checks.at_least("population", self.population, 3)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Population:
        key = noise.keys().to(x.device)
        age = torch.zeros_like(key)
        shape = (self.population, self.pixels)
        places = hashed(key, age, (*shape, 2)).to(x)
        colours = (hashed_normal(key, age + 1, (*shape, x.shape[1])).to(x) / 2 + 0.5).clamp(0, 1)
        genes = torch.cat([places, colours], dim=3)
        return Population(x, genes, _losses(x, genes, oracle), age, key)

    def step(self, state: Population, oracle: Oracle) -> Population:
        n, size, *shape = state.genes.shape
        draws = hashed(state.key, state.age + 2, (size, 3 + shape[0] * shape[1])).to(state.x)
        first, second, third = (
            state.genes.gather(1, r[:, :, None, None].expand_as(state.genes))
            for r in _three(draws[..., :3], size)
        )
        child = first + WEIGHT * (second - third)
        inside = (child >= 0) & (child <= 1)
        child = torch.where(inside, child, draws[..., 3:].reshape(n, size, *shape))
        value = _losses(state.x, child, oracle)
        better = value > state.value
        return Population(
            state.x,
            torch.where(better[:, :, None, None], child, state.genes),
            torch.where(better, value, state.value),
            state.age + 1,
            state.key,
        )

    def best(self, state: Population) -> Tensor:
        image = torch.arange(len(state.x), device=state.x.device)
        x_adv = _painted(state.x, state.genes[image, state.value.argmax(dim=1)])
        return chosen(l0_distance(x_adv, state.x) <= self.eps, x_adv, state.x)


def _three(draw: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three different members, from draws ``(N, S, 3)`` of U[0, 1), each ``(N, S)``."""
    # How far the second and the third lie behind the first: 1 to S - 1, and different.
    first, second, third = (
        (draw[..., i] * (size - i)).long().clamp(max=size - 1 - i) for i in range(3)
    )
    second, third = second + 1, third + 1
    third = third + (third >= second)
    return first, (first + second) % size, (first + third) % size


def _losses(x: Tensor, genes: Tensor, oracle: Oracle) -> Tensor:
    """The loss of every candidate, ``(N, S)``."""
    n = len(x)
    values = []
    for some in genes.split(max(1, POINTS // n), dim=1):
        rows = torch.arange(n, device=x.device).repeat_interleave(some.shape[1])
        few = oracle.of(rows)
        logits = few.logits(_painted(x[rows], some.flatten(0, 1)))
        values.append(cross_entropy(logits, few.goal).reshape(n, -1))
    return torch.cat(values, dim=1)


def _painted(x: Tensor, genes: Tensor) -> Tensor:
    """Images with the pixels of one candidate each, ``(N, pixels, 2 + C)``, the last on top."""
    sides = torch.tensor(x.shape[2:], device=x.device)
    places = torch.minimum((genes[..., :2] * sides).long(), sides - 1)
    image = torch.arange(len(x), device=x.device)
    x = x.clone()
    for (row, column), colour in zip(
        places.permute(1, 2, 0), genes[..., 2:].unbind(dim=1), strict=True
    ):
        x[image, :, row, column] = colour
    return x
