"""GeoDA: along the normal of the border, as decisions around a point of it tell."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.borders import NORMS, first_fooling, poll, to_border
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import DISTANCES, direction_l2, wide
from bezoar.seeds import Noise

DOUBLINGS = 5  # of the way along the normal, until it is given up


class Walk(NamedTuple):
    """Where on the border each image is, the clean image, steps taken, noise key, draws used."""

    x_adv: Tensor
    x: Tensor
    age: Tensor
    key: Tensor
    drawn: Tensor


@dataclass(frozen=True, kw_only=True)
class GeoDA(Attack):
    r"""From the clean image along an estimated normal of the border, to the border, and again.

    .. math::
        w_t = \sum_{i=1}^{N_t} \phi(x_t + \eta_i)\,\eta_i, \qquad
        v_t = \begin{cases} w_t / \lVert w_t\rVert_2 & \text{L2} \\
        \mathrm{sign}\, w_t & \text{Linf}\end{cases}, \qquad
        x_{t+1} = x + r_t v_t, \qquad N_t = N_0\,\lambda^{-2t/3}

    with phi 1 where the image fools and -1 elsewhere, :math:`\eta_i` random of L2 norm
    :math:`\sigma\sqrt d` with d values an image, and :math:`r_t` the least that fools: the distance
    of :math:`x_t` is doubled until it does, five times at most, and then the way back is halved. A
    step that does not reach the border leaves the image where it is. Noise of low frequencies
    holds, of the cosine transform of each channel, the first ``frequencies`` in either direction.
    Paper: arXiv:2003.06468, algorithm 1.

    Points are cut to the image box, and the directions that are left of them count. The border is
    found to :math:`\sigma/8` in L2 and :math:`\sigma/(8\sqrt d)` in Linf, but not by more than 20
    halvings. An image that no random start fools is left where it is. Cost: forward passes only; a
    restart takes 1 to ``1 + draws`` and a search of the border to start; step t, from 0,
    :math:`N_t` rounded down, 1 to 6 that look beyond the border, and a search; and one.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``l2`` or ``linf``.
        steps: number of steps.
        samples: points of the first estimate, N_0.
        rate: the share lambda to which a step is thought to bring the error.
        sigma: root of the mean square of the noise, in pixel units of [0, 1].
        frequencies: how many low frequencies the noise has; ``None`` for all.
        draws: random images that are tried for a start.
        restarts: number of searches; each may end at another border.
    """

    eps: float = float("inf")
    norm: str = "l2"
    steps: int = 10
    samples: int = 100
    rate: float = 0.6
    sigma: float = 0.0002
    frequencies: int | None = None
    draws: int = 100
    restarts: int = 1
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, NORMS)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("samples", self.samples, 1)
        checks.in_range("rate", self.rate, 0.1, 1)
        checks.in_range("sigma", self.sigma, 1e-6)
        if self.frequencies is not None:
            checks.at_least("frequencies", self.frequencies, 1)
        checks.at_least("draws", self.draws, 1)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        key = noise.keys().to(x.device)
        x_adv = self._border(first_fooling(x, oracle, key, self.draws), x, oracle)
        return Walk(x_adv, x, torch.zeros_like(key), key, torch.full_like(key, self.draws))

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        x_adv, x = state.x_adv, state.x
        far = DISTANCES[self.norm](x_adv, x)
        radius = self.sigma * x[0].numel() ** 0.5
        growth = self.rate ** (-2 / 3 * state.age.to(torch.float64))
        # One that did not start asks about its clean image, once.
        count = torch.where(far > 0, (self.samples * growth).long(), 1)
        reach = wide(torch.where(far > 0, radius, 0.0).to(x))

        def around(rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            points = (x_adv[rows] + reach[rows] * self._smooth(u)).clamp(0, 1)
            return points, points - x_adv[rows]

        _, w, _ = poll(x_adv, oracle, state.key, state.drawn, count, around)
        v = direction_l2(w) if self.norm == "l2" else w.sign()

        moved, length = x_adv.clone(), far
        left = (far > 0).nonzero().squeeze(1)
        for _ in range(1 + DOUBLINGS):
            if not len(left):
                break
            tried = (x[left] + wide(length[left]) * v[left]).clamp(0, 1)
            fooled = oracle.of(left).decide(tried)
            moved[left[fooled]] = tried[fooled]
            left = left[~fooled]
            length = 2 * length
        x_adv = self._border(moved, x, oracle)
        return Walk(x_adv, x, state.age + 1, state.key, state.drawn + count)

    def best(self, state: Walk) -> Tensor:
        return state.x_adv

    def _smooth(self, u: Tensor) -> Tensor:
        """What the low frequencies hold of random directions, with norm 1 again."""
        if self.frequencies is None:
            return u
        rows, columns = (cosines(length, self.frequencies).to(u) for length in u.shape[2:])
        return direction_l2(rows.T @ (rows @ u @ columns.T) @ columns)

    def _border(self, x_adv: Tensor, x: Tensor, oracle: Oracle) -> Tensor:
        # An offset as large as what the noise does to a linear classifier would decide the votes.
        width = self.sigma / 8 / (1 if self.norm == "l2" else x[0].numel() ** 0.5)
        return to_border(x_adv, x, oracle, self.norm, x.new_full((len(x),), width))


def cosines(length: int, count: int) -> Tensor:
    """The first rows of the orthonormal cosine transform (DCT-II), ``(count, length)`` at most."""
    k = torch.arange(min(count, length), dtype=torch.float64)[:, None]
    place = torch.arange(length, dtype=torch.float64) + 0.5
    scale = torch.where(k > 0, 2 / length, 1 / length).sqrt()
    return scale * torch.cos(math.pi / length * k * place)
