"""Auto-PGD towards one wrong class after another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.apgd import Path, advanced, path
from bezoar.attacks.losses import dlr_towards
from bezoar.attacks.protocol import Attack, Goal, Oracle, rivals
from bezoar.attacks.starts import in_ball
from bezoar.geometry import ASCENTS
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(Attack):
    r"""Auto-PGD on the targeted difference of logits ratio, a target a restart.

    .. math::
        L(z) = -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    The r-th restart leads to the wrong class with the r-th highest logit on the clean image; with
    more restarts than wrong classes it begins again, from other random starts. Any wrong class
    counts as success. Paper: arXiv:2003.01690, sections 3 and 4.1. Cost: that of ``APGD`` and one
    forward pass a restart.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        norm: ``linf`` or ``l2``.
        steps: number of steps of a restart.
        restarts: number of targets.
    """

    eps: float = 0.1
    norm: str = "linf"
    steps: int = 100
    restarts: int = 9

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.known("norm", self.norm, ASCENTS)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Path:
        target = rivals(oracle, x, torch.from_numpy(noise.draws).to(x.device))
        return path(in_ball(x, self.eps, self.norm, noise), x, target)

    def step(self, state: Path, oracle: Oracle) -> Path:
        def loss(logits: Tensor, goal: Goal) -> Tensor:
            return dlr_towards(logits, goal, state.target)

        value, gradient = oracle.gradient(state.x_adv, loss)
        return advanced(state, value, gradient, self.eps, self.norm, self.steps)

    def best(self, state: Path) -> Tensor:
        return state.top
