"""MI-FGSM: momentum over signed gradient steps, for images that fool other networks too."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import linf_radius, norms_l1, project_linf
from bezoar.seeds import Noise


class Momentum(NamedTuple):
    """State of the attacks with momentum; images ``(N, C, H, W)``, numbers ``(N,)``.

    Attributes:
        x_adv: where each image is.
        x: the clean image.
        velocity: decayed sum of past gradients.
        age: steps taken.
        key: of the image's noise, see ``seeds.hashed``.
    """

    x_adv: Tensor
    x: Tensor
    velocity: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack):
    r"""Momentum iterative FGSM.

    .. math::
        g_{t+1} = \mu g_t + \frac{d\,\nabla_x L(f(x_t), y)}{\lVert\nabla_x L(f(x_t), y)\rVert_1},
        \qquad x_{t+1} = \Pi_\epsilon\bigl(x_t + \alpha\,\mathrm{sign}\,g_{t+1}\bigr)

    with alpha = eps / steps, from the clean image. Paper: arXiv:1710.06081, algorithm 1; the factor
    d, the number of values of an image, leaves the steps as they are, and gives g the size of a
    step for those that look ahead along it. Cost:
    ``steps`` forward and backward passes an image, and one forward pass to judge the last point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps.
        decay: the factor mu; 0 forgets past gradients.
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Momentum:
        return at_rest(x, noise)

    def step(self, state: Momentum, oracle: Oracle) -> Momentum:
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        return moved(state, gradient, self.eps, self.steps, self.decay)

    def best(self, state: Momentum) -> Tensor:
        return state.x_adv


def at_rest(x: Tensor, noise: Noise) -> Momentum:
    """The state at the clean image."""
    key = noise.keys().to(x.device)
    return Momentum(x, x, torch.zeros_like(x), torch.zeros_like(key), key)


def moved(state: Momentum, gradient: Tensor, eps: float, steps: int, decay: float) -> Momentum:
    """One step of length eps / steps along the velocity, once ``gradient`` is added to it."""
    size = norms_l1(gradient) / state.x[0].numel()
    velocity = decay * state.velocity + gradient / size.clamp(min=1e-30)
    radius = linf_radius(eps)
    x_adv = project_linf(state.x_adv + radius / steps * velocity.sign(), state.x, radius)
    return Momentum(x_adv, state.x, velocity, state.age + 1, state.key)
