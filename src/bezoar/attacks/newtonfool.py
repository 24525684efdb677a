"""NewtonFool: Newton's method on the probability of the image's own class."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Ball, Goal, Oracle, require_away
from bezoar.geometry import chosen, direction_l2, l2_distance, norms_l2, wide
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class NewtonFool(Attack):
    r"""Newton steps that bring the probability p of the class down to chance.

    .. math::
        x_{i+1} = x_i - \frac{\delta_i}{\lVert\nabla p(x_i)\rVert_2^2}\,\nabla p(x_i), \qquad
        \delta_i = \min\Bigl(\eta\,\lVert x_0\rVert_2\,\lVert\nabla p(x_i)\rVert_2,\;
        p(x_i) - \frac1K\Bigr)

    with p the softmax of the class to leave and K the number of classes, cut to the box. So no
    step is longer than :math:`\eta\,\lVert x_0\rVert_2`. Stops at the first image that fools.
    Paper: Jang, Wu and Jha, ACSAC 2017, doi 10.1145/3134600.3134635, algorithm 1. Cost: a forward
    and a backward pass a step, until the image is fooled, and one forward pass.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of steps.
        eta: longest step, as a share of the norm of the clean image.
    """

    eps: float = float("inf")
    steps: int = 100
    eta: float = 0.01
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("eta", self.eta, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        require_away(oracle.goal)
        return Ball(x, x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        above, gradient = oracle.gradient(state.x_adv, above_chance)
        longest = self.eta * norms_l2(state.x)
        # Of a gradient that is zero the direction is zero too.
        length = wide(above) / norms_l2(gradient).clamp(min=torch.finfo(above.dtype).tiny)
        moved = state.x_adv - torch.minimum(length, longest) * direction_l2(gradient)
        x_adv = chosen(oracle.fooled, state.x_adv, moved.clamp(0, 1))
        return state._replace(x_adv=x_adv)

    def best(self, state: Ball) -> Tensor:
        inside = l2_distance(state.x_adv, state.x) <= self.eps
        return chosen(inside, state.x_adv, state.x)


def above_chance(logits: Tensor, goal: Goal) -> Tensor:
    """How far the probability of the class is above 1 / K, ``(N,)``."""
    probability = logits.softmax(dim=1).gather(1, goal.aim.unsqueeze(1)).squeeze(1)
    return probability - 1 / logits.shape[1]
