"""HopSkipJump: along the border by a gradient that is estimated from decisions."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.borders import HALVINGS, NORMS, first_fooling, poll, to_border
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import DISTANCES, direction_l2, wide
from bezoar.seeds import Noise


class Walk(NamedTuple):
    """Where on the border each image is, the clean image, steps taken, noise key, draws used."""

    x_adv: Tensor
    x: Tensor
    age: Tensor
    key: Tensor
    drawn: Tensor


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    r"""Steps along the normal of the border, each followed by a search for the border.

    .. math::
        v_t = \sum_{b=1}^{B_t} (\phi_b - \bar\phi)\,u_b, \qquad
        \phi_b = \phi(x_t + \delta_t u_b), \qquad
        x_{t+1} = \mathrm{border}\bigl(x_t + \xi_t\,\hat v_t\bigr)

    with phi 1 where the image fools and -1 elsewhere, :math:`u_b` uniform on the unit sphere,
    :math:`B_t = B_0\sqrt t`, and :math:`\hat v` the direction of v (L2) or its sign (Linf). The
    step :math:`\xi_t` is halved from :math:`\lVert x_t - x\rVert_p / \sqrt t` until the image
    fools. The border is found to :math:`\theta \lVert x_t - x\rVert_p` on the way back to x, and
    :math:`\delta_t = d^q\,\theta\,\lVert x_t - x\rVert_p`, :math:`\theta = d^{-q-1}` with d values
    an image and q = 1/2 (L2) or 1 (Linf). Paper: arXiv:1904.02144, algorithm 2.

    Theta is held between 2^-20, which float32 can still tell, and 1 %. Points are cut to the image
    box, and the directions that are left of them count. An image that no random start fools is
    left where it is. Cost: forward passes only; a restart takes 1 to ``1 + draws`` and a search of
    :math:`\lceil\log_2(1/\theta)\rceil` to start; step t takes ``samples`` times
    :math:`\sqrt t`, rounded down, one for every length that is tried, at most 20, and a search;
    and one.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``l2`` or ``linf``.
        steps: number of steps.
        samples: points of the first estimate, B_0.
        draws: random images that are tried for a start.
        restarts: number of searches; each may end at another border.
    """

    eps: float = float("inf")
    norm: str = "l2"
    steps: int = 30
    samples: int = 100
    draws: int = 100
    restarts: int = 1
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, NORMS)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("samples", self.samples, 1)
        checks.at_least("draws", self.draws, 1)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        key = noise.keys().to(x.device)
        x_adv = self._border(first_fooling(x, oracle, key, self.draws), x, oracle)
        return Walk(x_adv, x, torch.zeros_like(key), key, torch.full_like(key, self.draws))

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        x_adv, x, root = state.x_adv, state.x, (state.age + 1).to(state.x).sqrt()
        far = DISTANCES[self.norm](x_adv, x)
        size = x[0].numel()
        delta = (size**0.5 if self.norm == "l2" else size) * self._theta(size) * far
        # One that did not start asks about its clean image, once.
        count = torch.where(far > 0, (self.samples * root).long(), 1)

        def around(rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            points = (x_adv[rows] + wide(delta[rows]) * u).clamp(0, 1)
            return points, points - x_adv[rows]

        total, leaning, mean = poll(x_adv, oracle, state.key, state.drawn, count, around)
        baseline = torch.where(mean.abs() < 1, mean, 0)  # if all agree, it would leave nothing
        v = leaning - wide(baseline) * total
        v = direction_l2(v) if self.norm == "l2" else v.sign()

        moved, length = x_adv.clone(), far / root
        left = (far > 0).nonzero().squeeze(1)
        for _ in range(HALVINGS):
            if not len(left):
                break
            tried = (x_adv[left] + wide(length[left]) * v[left]).clamp(0, 1)
            fooled = oracle.of(left).decide(tried)
            moved[left[fooled]] = tried[fooled]
            left = left[~fooled]
            length = length / 2
        return Walk(
            self._border(moved, x, oracle), x, state.age + 1, state.key, state.drawn + count
        )

    def best(self, state: Walk) -> Tensor:
        return state.x_adv

    def _theta(self, size: int) -> float:
        exact = 1 / (size**1.5 if self.norm == "l2" else size**2)
        return min(max(exact, 0.5**HALVINGS), 0.01)

    def _border(self, x_adv: Tensor, x: Tensor, oracle: Oracle) -> Tensor:
        far = DISTANCES[self.norm](x_adv, x)
        return to_border(x_adv, x, oracle, self.norm, self._theta(x[0].numel()) * far)
