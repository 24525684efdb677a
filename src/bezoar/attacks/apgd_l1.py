"""Auto-PGD in L1: few pixels a step, and how few follows from the best point."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import LOSSES
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, l0_distance, project_l1, wide
from bezoar.seeds import Noise

RADII = (3.0, 2.0, 1.0)  # of the ball in the three phases, in units of eps
TENTHS = (0, 3, 6)  # of the steps after which they begin
CHECKPOINTS = 25  # of a phase, or one a step
HAIR = 1 - 1e-5  # so that rounding each of many changes does not lead out of the ball
EDGE = 1e-6  # a pixel as near to an end of [0, 1], by rounding, is there


class Sparse(NamedTuple):
    """Where each image is and how its steps have fared; images ``(N, C, H, W)``, numbers ``(N,)``.

    Attributes:
        x_adv: where the next gradient is asked for.
        x: the clean image.
        top: the point of this phase with the highest loss so far.
        slope: the gradient there.
        highest: the loss there.
        changed: values that ``top`` changed at the last checkpoint.
        step_size: length of the next step, in units of the radius.
        age: number of gradients asked for.
    """

    x_adv: Tensor
    x: Tensor
    top: Tensor
    slope: Tensor
    highest: Tensor
    changed: Tensor
    step_size: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class APGDL1(Attack):
    r"""Auto-PGD in the L1 ball: sparse steps, exact projections, a ball that shrinks.

    .. math::
        x_{k+1} = \Pi_S\Bigl(x_k + \eta\,\frac{u}{\lVert u\rVert_1}\Bigr), \qquad
        u = \mathrm{sign}(\nabla_x L)\ \text{at its}\ \lVert x_{top} - x\rVert_0 / 1.5\
        \text{largest entries, else}\ 0

    with S the part of the ball that lies in the image box. At checkpoints, 25 a phase, the number
    of entries follows the best point; where that got sparser by a twentieth, the image goes back
    to it with :math:`\eta` the radius; else eta falls by 1.5, to a tenth of the radius at least.
    Three phases of 30, 30 and 40 % of the steps have radius 3 eps, 2 eps and eps, each from the
    best point of the one before, projected. Entries that lead out of the box are left out. Paper:
    arXiv:2103.01208, sections 2 and 3. Cost: ``steps`` forward and backward passes an image and a
    restart, and one forward pass to judge the best point.

    Args:
        eps: radius of the ball: sum of all changes, pixels in [0, 1].
        steps: number of steps of all phases together.
        restarts: number of random starts; later ones go on with the images that still stand.
        loss: what is ascended, a name in ``losses.LOSSES``.
    """

    eps: float = 12.0
    steps: int = 100
    restarts: int = 1
    loss: str = "ce"
    norm: str = field(default="l1", init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        checks.known("loss", self.loss, LOSSES)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Sparse:
        number = x.new_zeros(len(x))
        age = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        _, _, radius = self._phase(age, x)
        x_adv = project_l1(x + noise.normal(x.shape[1:]).to(x), x, radius)
        return Sparse(
            x_adv=x_adv,
            x=x,
            top=x_adv,
            slope=torch.zeros_like(x),
            highest=number - torch.inf,
            changed=l0_distance(x_adv, x),
            step_size=number + 1,
            age=age,
        )

    def step(self, state: Sparse, oracle: Oracle) -> Sparse:
        s = state
        value, gradient = oracle.gradient(s.x_adv, LOSSES[self.loss])
        higher = value > s.highest
        top = chosen(higher, s.x_adv, s.top)
        slope = chosen(higher, gradient, s.slope)

        taken, every, radius = self._phase(s.age, s.x)
        due = (taken > 0) & (taken % every == 0)
        of_top = l0_distance(top, s.x)
        sparser = due & (of_top < 0.95 * s.changed)
        shorter = torch.where(due, (s.step_size / 1.5).clamp(min=0.1), s.step_size)
        step_size = torch.where(sparser, 1.0, shorter)
        changed = torch.where(due, of_top, s.changed)
        here = chosen(sparser, top, s.x_adv)
        along = chosen(sparser, slope, gradient)
        moved = here + radius * wide(step_size) * _sparse_sign(along, here, changed / 1.5)

        # Where the next phase begins, it does so at the best point of this one.
        taken, _, radius = self._phase(s.age + 1, s.x)
        begins = taken == 0
        x_adv = project_l1(chosen(begins, top, moved), s.x, radius)
        return Sparse(
            x_adv=x_adv,
            x=s.x,
            top=top,
            slope=slope,
            highest=torch.where(begins, -torch.inf, torch.where(higher, value, s.highest)),
            changed=torch.where(begins, l0_distance(x_adv, s.x), changed),
            step_size=torch.where(begins, 1.0, step_size),
            age=s.age + 1,
        )

    def best(self, state: Sparse) -> Tensor:
        return state.top

    def _phase(self, age: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps taken in its phase, steps between checkpoints, radius ``(N, 1, 1, 1)``."""
        begins = [tenths * self.steps // 10 for tenths in TENTHS]
        lengths = [end - begin for begin, end in pairwise([*begins, self.steps])]
        first = torch.tensor(begins).to(age)
        every = torch.tensor([max(1, length // CHECKPOINTS) for length in lengths]).to(age)
        phase = (age[:, None] >= first).sum(dim=1) - 1
        radius = wide(HAIR * self.eps * torch.tensor(RADII).to(x)[phase])
        return age - first[phase], every[phase], radius


def _sparse_sign(gradient: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """The signs of the ``count`` largest entries that do not lead out of the box, of L1 norm 1."""
    # At the border of the box the largest entries may all lead out of it, and nothing would move.
    out = ((x <= EDGE) & (gradient < 0)) | ((x >= 1 - EDGE) & (gradient > 0))
    flat = torch.where(out, 0, gradient).flatten(1)
    # Of equal entries only as many as are wanted: all together could be undone by the projection.
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    largest = torch.arange(flat.shape[1], device=x.device) < count.long().clamp(min=1)[:, None]
    sign = flat.sign() * torch.zeros_like(flat).scatter(1, order, largest.to(flat))
    return (sign / sign.abs().sum(dim=1, keepdim=True).clamp(min=1)).reshape(gradient.shape)
