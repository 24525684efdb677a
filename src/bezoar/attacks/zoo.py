"""ZOO: the attack of Carlini and Wagner with gradients that are estimated from scores."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.seeds import Noise, hashed

DECAYS = (0.9, 0.999)  # of Adam
POINTS = 256  # asked about in a pass, or as many as there are images


class Search(NamedTuple):
    """State of every image; images ``(N, C, H, W)``, values one a coordinate, ``(N, C * H * W)``.

    Attributes:
        x_adv: where it is.
        x: the clean image.
        mean, square: moments of Adam.
        updates: how often a coordinate was changed.
        age: steps taken, ``(N,)``.
        key: of its noise, ``(N,)``.
    """

    x_adv: Tensor
    x: Tensor
    mean: Tensor
    square: Tensor
    updates: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class ZOO(Attack):
    r"""Coordinate descent by Adam on distance and loss, from differences of scores.

    .. math::
        \min_{x' \in [0, 1]^d} \lVert x' - x\rVert_2^2 + c\,g(x'), \qquad
        \frac{\partial g}{\partial x'_i} \approx \frac{g(x' + h e_i) - g(x' - h e_i)}{2h}, \qquad
        g = \max\bigl(z_y - \max_{j \ne y} z_j, -\kappa\bigr)

    A step changes some random coordinates, each with moments and a count of its own. Differences
    of logits are those of the logarithms of probabilities that the paper asks for. Paper:
    arXiv:1708.03999, algorithm 2 (ZOO-Adam), with its projection onto the box in place of tanh
    and, as on its large images, one c; no hierarchy of resolutions and no importance sampling.
    Cost: ``1 + 2 * coordinates`` forward passes an image and a step, and one; no backward pass.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of steps.
        coordinates: values changed a step, at most all.
        lr: learning rate of Adam.
        c: weight of the loss.
        kappa: by how much the wrong class is to lead, in logits.
        h: how far around the scores are asked, in pixel units.
    """

    eps: float = float("inf")
    steps: int = 1000
    coordinates: int = 128
    lr: float = 0.01
    c: float = 10.0
    kappa: float = 0.0
    h: float = 1e-4
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("coordinates", self.coordinates, 1)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("c", self.c, 0)
        checks.in_range("kappa", self.kappa, 0)
        checks.in_range("h", self.h, 1e-6, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Search:
        key = noise.keys().to(x.device)
        zero = torch.zeros_like(x).flatten(1)
        return Search(x, x, zero, zero, zero, torch.zeros_like(key), key)

    def step(self, state: Search, oracle: Oracle) -> Search:
        s, flat = state, state.x_adv.flatten(1)
        oracle.logits(s.x_adv)
        order = hashed(s.key, s.age, (flat.shape[1],)).argsort(dim=1)
        chosen = order[:, : self.coordinates]
        slope = self.c * self._slope(s.x_adv, chosen, oracle)
        slope += 2 * (flat - s.x.flatten(1)).gather(1, chosen)

        first, second = DECAYS
        k = s.updates.gather(1, chosen) + 1
        mean = first * s.mean.gather(1, chosen) + (1 - first) * slope
        square = second * s.square.gather(1, chosen) + (1 - second) * slope.square()
        change = (mean / (1 - first**k)) / ((square / (1 - second**k)).sqrt() + 1e-8)
        moved = (flat.gather(1, chosen) - self.lr * change).clamp(0, 1)
        return Search(
            x_adv=flat.scatter(1, chosen, moved).reshape(s.x.shape),
            x=s.x,
            mean=s.mean.scatter(1, chosen, mean),
            square=s.square.scatter(1, chosen, square),
            updates=s.updates.scatter(1, chosen, k),
            age=s.age + 1,
            key=s.key,
        )

    def best(self, state: Search) -> Tensor:
        return state.x_adv

    def _slope(self, x_adv: Tensor, chosen: Tensor, oracle: Oracle) -> Tensor:
        """Estimated derivatives of the loss along the chosen coordinates, ``(N, M)``."""
        n, flat = len(x_adv), x_adv.flatten(1)
        slopes = []
        for places in chosen.split(max(1, POINTS // (2 * n)), dim=1):
            m = places.shape[1]
            value = flat.gather(1, places)
            # Cut to the box, so that every point counts; the difference is over what is left.
            sides = torch.stack([value + self.h, value - self.h], dim=2).clamp(0, 1)
            points = flat[:, None, None].repeat(1, m, 2, 1)
            points.scatter_(3, places[:, :, None, None].expand(n, m, 2, 1), sides[..., None])
            image = torch.arange(n, device=x_adv.device).repeat_interleave(2 * m)
            few = oracle.of(image)
            lead = margin(few.logits(points.reshape(-1, *x_adv.shape[1:])), few.goal)
            loss = (-lead).clamp(min=-self.kappa).reshape(n, m, 2)
            slopes.append((loss[..., 0] - loss[..., 1]) / (sides[..., 0] - sides[..., 1]))
        return torch.cat(slopes, dim=1)
