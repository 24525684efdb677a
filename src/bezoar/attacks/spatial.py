"""Rotations and translations, the worst of some random ones."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, l2_distance
from bezoar.seeds import Noise, hashed


class Found(NamedTuple):
    """The worst image so far, the clean one, the margin of the worst, how many tried, noise key."""

    x_adv: Tensor
    x: Tensor
    value: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class Spatial(Attack):
    r"""The worst of k random rotations and translations of each image.

    .. math::
        x' = T_{\theta, u, v}(x), \qquad
        \theta \sim U[-\text{angle}, \text{angle}], \quad
        u, v \sim U[-\text{shift}, \text{shift}]

    with T the rotation about the centre, then the translation by u of the width and v of the
    height, interpolated bilinearly and black where nothing came to lie. Kept is the image with the
    highest margin :math:`\max_{j \ne y} z_j - z_y`. It lies in no small ball of pixels: eps only
    says what counts. Paper: arXiv:1712.02779, section 3. Cost: ``steps``
    forward passes an image and one more, and one that judges the worst; no backward pass.

    Args:
        eps: radius of what counts, in L2; infinite by default.
        steps: number of transformations tried, k.
        angle: largest rotation, in degrees, to both sides.
        shift: largest translation, as a share of the side of the image, to all four sides.
    """

    eps: float = float("inf")
    steps: int = 10
    angle: float = 30.0
    shift: float = 0.1
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("angle", self.angle, 0, 180)
        checks.in_range("shift", self.shift, 0, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Found:
        key = noise.keys().to(x.device)
        return Found(x, x, margin(oracle.logits(x), oracle.goal), torch.zeros_like(key), key)

    def step(self, state: Found, oracle: Oracle) -> Found:
        draws = 2 * hashed(state.key, state.age, (3,)).to(state.x) - 1
        tried = transformed(state.x, self.angle * draws[:, 0], self.shift * draws[:, 1:])
        value = margin(oracle.logits(tried), oracle.goal)
        worse = (value > state.value) & (l2_distance(tried, state.x) <= self.eps)
        return Found(
            chosen(worse, tried, state.x_adv),
            state.x,
            torch.where(worse, value, state.value),
            state.age + 1,
            state.key,
        )

    def best(self, state: Found) -> Tensor:
        return state.x_adv


def transformed(x: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Rotate images counter-clockwise, then move them to the right and down.

    Args:
        x: images, ``(N, C, H, W)``.
        angle: in degrees, ``(N,)``.
        shift: shares of width and height, ``(N, 2)``.
    """
    height, width = x.shape[2:]
    turn = angle * (math.pi / 180)
    cos, sin = turn.cos(), turn.sin()
    # For each place of the result, where it comes from, in units of half a width and half a height.
    linear = torch.stack([cos, -sin * height / width, sin * width / height, cos], dim=1)
    linear = linear.reshape(-1, 2, 2)
    matrix = torch.cat([linear, -linear @ (2 * shift)[:, :, None]], dim=2)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp(
        0, 1
    )
