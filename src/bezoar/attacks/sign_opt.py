"""Sign-OPT: descent on the distance to the border, by the signs of its directional derivatives."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.borders import HALVINGS, halved, poll, to_border
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, direction_l2, l2_distance, wide
from bezoar.seeds import Noise, hashed

TRIALS = 10  # of longer steps, and of shorter ones


class Walk(NamedTuple):
    """Direction to and distance of the border, the clean image, length of a step, key, draws."""

    theta: Tensor
    far: Tensor
    x: Tensor
    alpha: Tensor
    key: Tensor
    drawn: Tensor


@dataclass(frozen=True, kw_only=True)
class SignOPT(Attack):
    r"""Turns the direction from the clean image to where the border is nearer.

    .. math::
        g(\theta) = \min\{\lambda > 0 : x + \lambda\,\theta/\lVert\theta\rVert_2
        \text{ fools}\}, \qquad
        \hat g = \sum_{q=1}^{Q} \mathrm{sign}\bigl(g(\theta + \epsilon u_q) - g(\theta)\bigr)\,u_q,
        \qquad \theta \leftarrow \theta - \alpha\,\frac{\hat g}{\lVert\hat g\rVert_2}

    with :math:`u_q` uniform on the unit sphere and theta of norm 1. A sign is one decision: whether
    the image at distance :math:`g(\theta)` in the direction :math:`\theta + \epsilon u_q` fools.
    Alpha is doubled while the border comes nearer, or else divided by 4 until it does, ten times at
    most, and the next step begins with it; where nothing helped theta stays, and alpha is
    ``step_size`` again. Theta begins as the best of ``draws`` directions to uniform random images.
    Paper: arXiv:1909.10773, algorithm 1.

    Points are cut to the image box, directions are not: with directions that were cut too, the
    border was found a quarter farther away, on digits, where most pixels are at an end of the box.
    It is found to a share of :math:`\epsilon / (8\sqrt d)` of its distance, with d values an image,
    or 2^-20. An image that no random image fools is left where it is. Cost: forward passes only; a
    restart takes ``1 + draws`` to start, and a search of at most 20 for each direction that is the
    best so far; a step ``samples``, 1 to 11 for the lengths that are tried, and a search for each
    that leads nearer; and one.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of steps.
        samples: signs of a step, Q.
        spread: the length epsilon at which they are asked.
        step_size: first length alpha of a step.
        draws: random images whose directions are tried for a start.
        restarts: number of searches; each may end at another border.
    """

    eps: float = float("inf")
    steps: int = 50
    samples: int = 200
    spread: float = 0.001
    step_size: float = 0.2
    draws: int = 100
    restarts: int = 1
    norm: str = field(default="l2", init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("samples", self.samples, 1)
        checks.in_range("spread", self.spread, 1e-6, 1)
        checks.in_range("step_size", self.step_size, 1e-6)
        checks.at_least("draws", self.draws, 1)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Walk:
        key = noise.keys().to(x.device)
        x_adv, far = x.clone(), x.new_full((len(x),), torch.inf)
        left = (~oracle.decide(x)).nonzero().squeeze(1)  # one that fools already is its own start
        for draw in range(self.draws if len(left) else 0):
            tried = hashed(key[left], torch.full_like(left, draw), x.shape[1:]).to(x)
            share = (far[left] / l2_distance(tried, x[left]).clamp(min=1e-12)).clamp(max=1)
            tried = (x[left] + wide(share) * (tried - x[left])).clamp(0, 1)
            fooled = oracle.of(left).decide(tried)
            rows = left[fooled]
            x_adv[rows] = self._border(tried[fooled], x[rows], oracle.of(rows))
            far[rows] = l2_distance(x_adv[rows], x[rows])
        alpha = x.new_full((len(x),), self.step_size)
        drawn = torch.full_like(key, self.draws)
        return Walk(direction_l2(x_adv - x), l2_distance(x_adv, x), x, alpha, key, drawn)

    def step(self, state: Walk, oracle: Oracle) -> Walk:
        theta, far, x = state.theta, state.far, state.x
        # One that did not start asks about its clean image, once.
        count = torch.where(far > 0, self.samples, 1)

        def around(rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            return _ahead(x[rows], theta[rows] + self.spread * u, far[rows]), u

        _, leaning, _ = poll(x, oracle, state.key, state.drawn, count, around)
        theta, far, alpha = self._turned(direction_l2(leaning), state, oracle)
        return Walk(theta, far, x, alpha, state.key, state.drawn + count)

    def _turned(self, v: Tensor, state: Walk, oracle: Oracle) -> tuple[Tensor, Tensor, Tensor]:
        """Where the longest turn towards v leads that still helps, and the next alpha."""
        x, alpha = state.x, state.alpha.clone()
        theta, far = state.theta.clone(), state.far.clone()

        def nearer(rows: Tensor) -> Tensor:
            """Turn by each row's alpha where the border is nearer there."""
            turned = direction_l2(state.theta[rows] + wide(alpha[rows]) * v[rows])
            limit = far[rows] * (1 - self._share(x))  # more than it is off
            fooled = oracle.of(rows).decide(_ahead(x[rows], turned, limit))
            there = rows[fooled]
            theta[there] = turned[fooled]
            far[there] = self._along(turned[fooled], x[there], limit[fooled], oracle.of(there))
            return fooled

        longer = shorter = (far > 0).nonzero().squeeze(1)
        for trial in range(1 + TRIALS):
            if not len(longer):
                break
            fooled = nearer(longer)
            if trial == 0:
                shorter = longer[~fooled]
            longer = longer[fooled]
            alpha[longer] *= 2
        for _ in range(TRIALS):
            if not len(shorter):
                break
            alpha[shorter] /= 4
            shorter = shorter[~nearer(shorter)]
        alpha[shorter] = self.step_size
        return theta, far, alpha

    def best(self, state: Walk) -> Tensor:
        x_adv = _ahead(state.x, state.theta, state.far)
        return chosen(l2_distance(x_adv, state.x) <= self.eps, x_adv, state.x)

    def _share(self, x: Tensor) -> float:
        share: float = self.spread / 8 / x.shape[1:].numel() ** 0.5
        return max(share, 0.5**HALVINGS)

    def _border(self, x_adv: Tensor, x: Tensor, oracle: Oracle) -> Tensor:
        return to_border(x_adv, x, oracle, "l2", self._share(x) * l2_distance(x_adv, x))

    def _along(self, theta: Tensor, x: Tensor, far: Tensor, oracle: Oracle) -> Tensor:
        """Distance of the border in a direction in which the image at ``far`` fools."""

        def place(rows: Tensor, distance: Tensor) -> Tensor:
            return _ahead(x[rows], theta[rows], distance)

        return halved(far, 1, self._share(x) * far, oracle, place)


def _ahead(x: Tensor, direction: Tensor, far: Tensor) -> Tensor:
    """The point at a distance in a direction, cut to the image box."""
    return (x + wide(far) * direction_l2(direction)).clamp(0, 1)
