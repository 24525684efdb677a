"""Auto-PGD: projected gradient descent that finds its own step size."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import LOSSES
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.attacks.starts import in_ball
from bezoar.geometry import ASCENTS, chosen, linf_radius, wide
from bezoar.seeds import Noise

MOMENTUM = 0.75  # share of the new step, alpha in the paper
RHO = 0.75  # share of steps that must raise the loss, or the step size is halved


class Path(NamedTuple):
    """Where each image is and how its steps have fared; images ``(N, C, H, W)``, numbers ``(N,)``.

    Attributes:
        x_adv: where the next gradient is asked for.
        x: the clean image.
        last: where it was before.
        top: the point with the highest loss so far.
        slope: the gradient there.
        highest: the loss there.
        value: the loss at ``last``.
        step_size: length of the next step, in units of eps.
        age: number of gradients asked for.
        rises: steps that raised the loss since the last checkpoint.
        before: ``highest`` at the last checkpoint.
        halved: whether the step size was halved there.
        target: the class that ``APGDTargeted`` leads to.
    """

    x_adv: Tensor
    x: Tensor
    last: Tensor
    top: Tensor
    slope: Tensor
    highest: Tensor
    value: Tensor
    step_size: Tensor
    age: Tensor
    rises: Tensor
    before: Tensor
    halved: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    r"""Auto-PGD: momentum, and a step size that follows the loss.

    .. math::
        z_{k+1} &= \Pi_\epsilon\bigl(x_k + \eta\,s(\nabla_x L(f(x_k), y))\bigr) \\
        x_{k+1} &= \Pi_\epsilon\bigl(x_k + \alpha (z_{k+1} - x_k) + (1 - \alpha)(x_k - x_{k-1})
                  \bigr), \qquad \alpha = 0.75

    with s the sign (Linf) or the gradient over its norm (L2), from eta = 2 eps. At checkpoints
    that come ever closer together, eta is halved and the image goes back to its best point if
    fewer than three in four steps raised the loss, or if neither eta nor the highest loss has
    changed since the checkpoint before. Paper: arXiv:2003.01690, section 3. Cost: ``steps``
    forward and backward passes an image and a restart, and one forward pass to judge the best
    point.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        norm: ``linf`` or ``l2``.
        steps: number of steps.
        restarts: number of random starts; later ones go on with the images that still stand.
        loss: what is ascended, a name in ``losses.LOSSES``.
    """

    eps: float = 0.1
    norm: str = "linf"
    steps: int = 100
    restarts: int = 1
    loss: str = "ce"

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.known("norm", self.norm, ASCENTS)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.known("loss", self.loss, LOSSES)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Path:
        none = torch.zeros(len(x), dtype=torch.int64)
        return path(in_ball(x, self.eps, self.norm, noise), x, none)

    def step(self, state: Path, oracle: Oracle) -> Path:
        value, gradient = oracle.gradient(state.x_adv, LOSSES[self.loss])
        return advanced(state, value, gradient, self.eps, self.norm, self.steps)

    def best(self, state: Path) -> Tensor:
        return state.top


def path(start: Tensor, x: Tensor, target: Tensor) -> Path:
    """The state before the first gradient is asked for."""
    number = x.new_zeros(len(x))
    return Path(
        x_adv=start,
        x=x,
        last=start,
        top=start,
        slope=torch.zeros_like(x),
        highest=number - torch.inf,
        value=number + torch.inf,  # so that the first point is no rise
        step_size=number + 2,
        age=torch.zeros(len(x), dtype=torch.int64, device=x.device),
        rises=number,
        before=number - torch.inf,
        halved=torch.ones(len(x), dtype=torch.bool, device=x.device),
        target=target.to(x.device),
    )


def advanced(s: Path, value: Tensor, gradient: Tensor, eps: float, norm: str, steps: int) -> Path:
    """One step of every image, whatever its age: algorithm 1 of arXiv:2003.01690.

    Args:
        s: the state.
        value: the loss at ``s.x_adv``, ``(N,)``.
        gradient: its gradient there, ``(N, C, H, W)``.
        eps: radius of the ball.
        norm: ``linf`` or ``l2``.
        steps: number of steps of the whole attack.
    """
    ascent, project = ASCENTS[norm]
    radius = linf_radius(eps) if norm == "linf" else eps
    direction = ascent(gradient)
    higher = value > s.highest
    top = chosen(higher, s.x_adv, s.top)
    slope = chosen(higher, direction, s.slope)
    highest = torch.where(higher, value, s.highest)
    rises = s.rises + (value > s.value)

    spans = _spans(steps, value.device)[s.age]  # 0 where there is none
    due = spans > 0
    stuck = due & ((rises < RHO * spans) | (~s.halved & (highest == s.before)))
    step_size = torch.where(stuck, s.step_size / 2, s.step_size)
    here = chosen(stuck, top, s.x_adv)
    along = chosen(stuck, slope, direction)

    z = project(here + radius * wide(step_size) * along, s.x, radius)
    alpha = torch.where(s.age == 0, 1.0, MOMENTUM).to(value)
    moved = project(
        here + wide(alpha) * (z - here) + wide(1 - alpha) * (here - s.last), s.x, radius
    )
    return Path(
        x_adv=moved,
        x=s.x,
        last=here,
        top=top,
        slope=slope,
        highest=highest,
        value=torch.where(stuck, highest, value),
        step_size=step_size,
        age=s.age + 1,
        rises=torch.where(due, 0, rises),
        before=torch.where(due, highest, s.before),
        halved=torch.where(due, stuck, s.halved),
        target=s.target,
    )


@cache
def _spans(steps: int, device: torch.device) -> Tensor:
    """For each age the number of steps since the last checkpoint if it is one, else 0."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    ages = sorted({ceil(share * steps) for share in shares})
    spans = {age: age - before for before, age in pairwise(ages)}
    return torch.tensor([spans.get(age, 0) for age in range(steps)], device=device)
