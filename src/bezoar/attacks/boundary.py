"""Boundary attack: a random walk along the border, for an attacker who sees decisions only."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.borders import first_fooling
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, direction_l2, l2_distance, wide
from bezoar.seeds import Noise, hashed_normal

FACTOR = 1.1  # by which the steps adapt


class Walk(NamedTuple):
    """Where each image is, the clean image, lengths of both steps, noise key, draws used."""

    x_adv: Tensor
    x: Tensor
    around: Tensor
    nearer: Tensor
    key: Tensor
    drawn: Tensor


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack):
    r"""Steps at random around the image on a sphere, then towards the image, while it fools.

    .. math::
        \tilde x = x + d\,\frac{x_t + \eta - x}{\lVert x_t + \eta - x\rVert_2}, \qquad
        x_{t+1} = x + (1 - \epsilon)(\tilde x - x), \qquad
        \eta \perp x_t - x,\; \lVert\eta\rVert_2 = \delta d

    with :math:`d = \lVert x_t - x\rVert_2` and :math:`\eta` of random direction; the step is taken
    where :math:`x_{t+1}`, cut to the image box, fools. Delta is held where half the points
    :math:`\tilde x` fool, epsilon where a quarter of the :math:`x_{t+1}` of these do, each by a
    factor of 1.1 or a power of it a step. Paper: arXiv:1712.04248, algorithm 1 and section 2.

    An image that no random start fools is left where it is. Cost: forward passes only; a restart
    takes 1 to ``1 + draws`` to start, a step one and a second where the first point fools; and
    one.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of steps.
        delta: first length of the step around, as a share of the distance.
        epsilon: first length of the step towards the image, as a share of the distance.
        draws: random images that are tried for a start.
        restarts: number of walks; each may end at another border.
    """

    eps: float = float("inf")
    steps: int = 5000
    delta: float = 0.1
    epsilon: float = 0.1
    draws: int = 100
    restarts: int = 1
    norm: str = field(default="l2", init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("delta", self.delta, 0, 1)
        checks.in_range("epsilon", self.epsilon, 0, 0.5)
        checks.at_least("draws", self.draws, 1)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        key = noise.keys().to(x.device)
        x_adv = first_fooling(x, oracle, key, self.draws)
        around, nearer = (x.new_full((len(x),), first) for first in (self.delta, self.epsilon))
        return Walk(x_adv, x, around, nearer, key, torch.full_like(key, self.draws))

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        x_adv, x, around, nearer, key, drawn = state
        change = x_adv - x
        ray, far = direction_l2(change), wide(l2_distance(x_adv, x))
        noise = hashed_normal(key, drawn, x.shape[1:]).to(x)
        across = noise - wide((noise * ray).flatten(1).sum(dim=1)) * ray
        turned = far * direction_l2(ray + wide(around) * direction_l2(across))
        sphere = oracle.decide((x + turned).clamp(0, 1))

        rows = (sphere & (far.flatten() > 0)).nonzero().squeeze(1)
        tried = (x + wide(1 - nearer) * turned).clamp(0, 1)[rows]
        fooled = oracle.of(rows).decide(tried) if len(rows) else sphere[rows]
        moved = x_adv.clone()
        moved[rows[fooled]] = tried[fooled]

        # In balance at one half, and at one quarter.
        around = torch.where(sphere, around * FACTOR, around / FACTOR).clamp(max=1)
        adapted = torch.where(fooled, nearer[rows] * FACTOR**3, nearer[rows] / FACTOR)
        nearer = nearer.index_put((rows,), adapted.clamp(max=0.5))
        return Walk(moved, x, around, nearer, key, drawn + 1)

    def best(self, state: Walk) -> Tensor:
        inside = l2_distance(state.x_adv, state.x) <= self.eps
        return chosen(inside, state.x_adv, state.x)
