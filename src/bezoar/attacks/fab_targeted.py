"""FAB, the fast adaptive boundary attack, towards one wrong class after another."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.fab import NORMS, along_border
from bezoar.attacks.protocol import Attack, Goal, Oracle, rivals
from bezoar.seeds import Noise


class Border(NamedTuple):
    """Where each image is and the clean image, ``(N, C, H, W)``, and the target, ``(N,)``."""

    x_adv: Tensor
    x: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class FABTargeted(Attack):
    """Walk along the border between y and t, always pulled back to the clean image.

    As ``FAB``, with the border to one class in place of the nearest. The r-th restart leads to
    the wrong class with the r-th highest logit on the clean image, and begins there. Papers:
    arXiv:1907.02044, algorithm 1; targeted as in arXiv:2003.01690, section 5. Cost: ``2 * steps``
    forward and ``steps`` backward passes an image and a restart, and two forward passes a restart.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``linf`` or ``l2``.
        steps: number of steps of a restart.
        restarts: number of targets.
    """

    eps: float = float("inf")
    norm: str = "linf"
    steps: int = 100
    restarts: int = 9
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, NORMS)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Border:
        target = rivals(oracle, x, torch.from_numpy(noise.draws).to(x.device))
        return Border(x, x, target)

    def step(self, state: Border, oracle: Oracle) -> Border:
        def ahead(logits: Tensor, goal: Goal) -> Tensor:
            of = torch.stack([state.target, goal.aim], dim=1)
            pair = logits.gather(1, of)
            return pair[:, 0] - pair[:, 1]

        value, normal = oracle.gradient(state.x_adv, ahead)
        x_adv = along_border(state.x_adv, state.x, value, normal, self.norm, oracle)
        return state._replace(x_adv=x_adv)

    def best(self, state: Border) -> Tensor:
        return state.x_adv
