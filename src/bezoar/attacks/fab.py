"""FAB, the fast adaptive boundary attack, towards whichever class border is nearest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.protocol import Attack, Oracle, require_away
from bezoar.geometry import chosen, linf_radius, norms_l1, norms_l2, norms_linf, onto_plane
from bezoar.seeds import Noise

ALPHA = 0.1  # largest share of the step that starts at the clean image
ETA = 1.05  # how far beyond the linearised border a step goes
BETA = 0.9  # share of the way back to the border after a success

# By norm: itself and its dual.
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "linf": (norms_linf, norms_l1),
    "l2": (norms_l2, norms_l2),
}


class Borders(NamedTuple):
    """Where each image is and the clean one, ``(N, C, H, W)``; its class and all others."""

    x_adv: Tensor
    x: Tensor
    classes: Tensor


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    r"""Walk along the nearest class border, always pulled back to the clean image.

    With :math:`\pi` the nearest of the class borders linearised at :math:`x_k`,

    .. math::
        \pi = \{z : f_s(x_k) + \langle w_s, z - x_k\rangle = 0\}, \qquad
        s = \arg\min_{l \ne y} \frac{|f_l(x_k)|}{\lVert w_l\rVert_q}, \qquad
        f_l = z_l - z_y,\; w_l = \nabla f_l(x_k)

    and :math:`P` the projection onto it within the image box,

    .. math::
        x_{k+1} = (1 - \alpha)\bigl(x_k + \eta (P(x_k) - x_k)\bigr)
                + \alpha\bigl(x + \eta (P(x) - x)\bigr), \qquad
        \alpha = \min\Bigl(\frac{\lVert P(x_k) - x_k\rVert}{\lVert P(x_k) - x_k\rVert
                + \lVert P(x) - x\rVert}, 0.1\Bigr)

    and an image that is fooled goes a tenth of the way back to x. It looks for the nearest
    fooling image and does not know eps, which only says what counts. The first start is the clean
    image, later ones lie in a random direction at half of eps. Paper: arXiv:1907.02044, algorithm
    1. Cost, with K classes: ``2 * steps`` forward and ``K * steps`` backward passes an image and a
    restart, and two forward passes a restart.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``linf`` or ``l2``.
        steps: number of steps of a restart.
        restarts: number of starts; 1 where eps is infinite.
    """

    eps: float = float("inf")
    norm: str = "linf"
    steps: int = 100
    restarts: int = 1
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, NORMS)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("restarts", self.restarts, 1)
        if self.restarts > 1 and self.eps == float("inf"):
            expected = "expected 1 where eps=inf; a random start lies at half of eps"
            raise ValueError(f"restarts={self.restarts!r}: {expected}")

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Borders:
        require_away(oracle.goal)
        # The class to leave comes first, whatever its logit.
        logits = oracle.logits(x).scatter(1, oracle.goal.aim.unsqueeze(1), float("inf"))
        return Borders(self._begun(x, noise), x, logits.argsort(dim=1, descending=True))

    def step(self, state: Borders, oracle: Oracle) -> Borders:
        logits, slopes = oracle.jacobian(state.x_adv, state.classes)
        z = logits.gather(1, state.classes)
        f, w = z[:, 1:] - z[:, :1], slopes[:, 1:] - slopes[:, :1]
        dual = NORMS[self.norm][1]
        length = dual(w.flatten(0, 1)).reshape(f.shape).clamp(min=1e-12)
        nearest = (f.abs() / length).argmin(dim=1)
        image = torch.arange(len(f), device=f.device)
        value, normal = f[image, nearest], w[image, nearest]
        x_adv = along_border(state.x_adv, state.x, value, normal, self.norm, oracle)
        return state._replace(x_adv=x_adv)

    def best(self, state: Borders) -> Tensor:
        return state.x_adv

    def _begun(self, x: Tensor, noise: Noise) -> Tensor:
        """The clean image, or a random point at half of eps."""
        again = torch.from_numpy(noise.draws > 0).to(x.device)
        if not again.any():
            return x
        linf = self.norm == "linf"
        change = (noise.uniform if linf else noise.normal)(x.shape[1:]).to(x)
        radius = linf_radius(self.eps) if linf else self.eps
        size = NORMS[self.norm][0](change).clamp(min=1e-12)
        return chosen(again, (x + radius / 2 * change / size).clamp(0, 1), x)


def along_border(
    here: Tensor, x: Tensor, value: Tensor, normal: Tensor, norm: str, oracle: Oracle
) -> Tensor:
    """One step of the walk: to the border and towards the clean image, and back if it fools.

    Args:
        here: where each image is, ``(N, C, H, W)``.
        x: the clean image.
        value: by how much the other class leads at ``here``, ``(N,)``.
        normal: its gradient there, ``(N, C, H, W)``.
        norm: ``linf`` or ``l2``.
        oracle: asked once, whether the image fools.
    """
    offset = (normal * here).flatten(1).sum(dim=1) - value
    step = onto_plane(here, normal, offset, norm) - here
    pull = onto_plane(x, normal, offset, norm) - x
    norms = NORMS[norm][0]
    length, of_pull = norms(step), norms(pull)
    alpha = (length / (length + of_pull).clamp(min=1e-12)).clamp(max=ALPHA)
    moved = ((1 - alpha) * (here + ETA * step) + alpha * (x + ETA * pull)).clamp(0, 1)
    oracle.logits(moved)
    return chosen(oracle.fooled, x + BETA * (moved - x), moved)
