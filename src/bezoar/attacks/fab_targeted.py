"""FAB, the fast adaptive boundary attack, towards one wrong class after another."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Goal, Oracle, rivals
from bezoar.geometry import norms_l2, norms_linf, onto_plane, wide
from bezoar.seeds import Noise

NORMS = {"linf": norms_linf, "l2": norms_l2}
ALPHA = 0.1  # largest share of the step that starts at the clean image
ETA = 1.05  # how far beyond the linearised border a step goes
BETA = 0.9  # share of the way back to the border after a success


class Border(NamedTuple):
    """Where each image is and the clean image, ``(N, C, H, W)``, and the target, ``(N,)``."""

    x_adv: Tensor
    x: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class FABTargeted(Attack):
    r"""Walk along the border between y and t, always pulled back to the clean image.

    With :math:`\pi` the class border linearised at :math:`x_k` and :math:`P` the projection onto
    it within the image box,

    .. math::
        x_{k+1} = (1 - \alpha)\bigl(x_k + \eta (P(x_k) - x_k)\bigr)
                + \alpha\bigl(x + \eta (P(x) - x)\bigr), \qquad
        \alpha = \min\Bigl(\frac{\lVert P(x_k) - x_k\rVert}{\lVert P(x_k) - x_k\rVert
                + \lVert P(x) - x\rVert}, 0.1\Bigr)

    and an image that is fooled goes a tenth of the way back to x. It looks for the nearest
    fooling image and does not know eps, which only says what counts. The r-th restart leads to
    the wrong class with the r-th highest logit. Paper: arXiv:1907.02044, algorithm 1; targeted as
    in arXiv:2003.01690, section 5. Cost: ``2 * steps`` forward and ``steps`` backward passes an
    image and a restart, and two forward passes a restart.

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

        here, x = state.x_adv, state.x
        value, normal = oracle.gradient(here, ahead)
        offset = (normal * here).flatten(1).sum(dim=1) - value
        step = onto_plane(here, normal, offset, self.norm) - here
        pull = onto_plane(x, normal, offset, self.norm) - x
        norms = NORMS[self.norm]
        length, of_pull = norms(step), norms(pull)
        alpha = (length / (length + of_pull).clamp(min=1e-12)).clamp(max=ALPHA)
        moved = ((1 - alpha) * (here + ETA * step) + alpha * (x + ETA * pull)).clamp(0, 1)

        oracle.logits(moved)
        back = x + BETA * (moved - x)
        fooled = wide(oracle.fooled)
        return Border(torch.where(fooled, back, moved), x, state.target)

    def best(self, state: Border) -> Tensor:
        return state.x_adv
