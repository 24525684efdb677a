"""The attack of Brendel and Bethge: along the border, towards the clean image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import norms_l2, shorten_l2, wide
from bezoar.seeds import Noise, hashed

BISECTIONS = 10  # from the first fooling point back to the border
HALVINGS = 10  # of the trust region over all steps
BEYOND = 0.05  # of the trust region, by which a step ends behind the linearised border
SEARCHES = 18  # bisections of the pull towards the clean image
FAINT = 1e-6  # weights smaller than this, as a share of the largest, do not move a pixel


class Border(NamedTuple):
    """Where each image is, the clean image, the first trust region, ``(N, 1, 1, 1)``, and age."""

    x_adv: Tensor
    x: Tensor
    radius: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class BrendelBethge(Attack):
    r"""Go to the point of the linearised border in reach that is nearest to the clean image.

    .. math::
        \delta_k = \arg\min_\delta \lVert x_{k-1} + \delta - x\rVert_p \quad\text{with}\quad
        x_{k-1} + \delta \in [0, 1]^d, \quad \langle b_k, \delta\rangle = c_k, \quad
        \lVert\delta\rVert_2 \le r_k

    with :math:`b_k` the gradient of the margin at :math:`x_{k-1}`, :math:`c_k` what the margin
    lacks there to :math:`0.05\,r_k \lVert b_k\rVert_2`, a hair behind the border, and :math:`r_k`
    falling from ``step_size`` of the first distance to a thousandth of it. Where the border is out
    of reach the step goes towards it. Paper: arXiv:1907.01003, equation 1 and algorithm 1.

    It starts on the way from the image to uniform noise, where that first fools, and goes back to
    the border; where it never does, at the noise. Each border has a nearest point of its own, so
    starts from other noise may end nearer. Cost, of each restart: ``tries + 11`` forward passes
    an image, and a forward and a backward pass a step.

    Args:
        eps: radius of what counts as found, in the norm; infinite by default.
        norm: ``l2``, ``linf`` or ``l1``.
        steps: number of steps.
        step_size: first radius of the trust region, as a share of the first distance in L2.
        tries: how many images may be the start: the clean one, then each nearer to other noise.
        restarts: number of starts.
    """

    eps: float = float("inf")
    norm: str = "l2"
    steps: int = 100
    step_size: float = 0.3
    tries: int = 20
    restarts: int = 5
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.known("norm", self.norm, PULLS)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("step_size", self.step_size, 0)
        checks.at_least("tries", self.tries, 2)
        checks.at_least("restarts", self.restarts, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Border:
        key = noise.keys().to(x.device)
        age = torch.zeros_like(key)
        end, found = x, wide(oracle.decide(x))
        for k in range(1, self.tries):
            share = k / (self.tries - 1)
            tried = x + share * (hashed(key, age + k, x.shape[1:]).to(x) - x)
            fooled = wide(oracle.decide(tried))
            end, found = torch.where(found, end, tried), found | fooled
        # Between a share that may not fool and one that does.
        low, high = (x.new_full((len(x), 1, 1, 1), share) for share in (0.0, 1.0))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fooled = wide(oracle.decide(x + middle * (end - x)))
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
        x_adv = x + high * (end - x)
        return Border(x_adv, x, self.step_size * norms_l2(x_adv - x), age)

    def step(self, state: Border, oracle: Oracle) -> Border:
        here = state.x_adv
        value, normal = oracle.gradient(here, margin)
        radius = state.radius * wide(0.5 ** (HALVINGS * state.age / self.steps)).to(here)
        lacking = BEYOND * (radius * norms_l2(normal)).flatten() - value
        ahead = nearest_in_reach(here, state.x, normal, lacking, radius, PULLS[self.norm])
        return state._replace(x_adv=ahead, age=state.age + 1)

    def best(self, state: Border) -> Tensor:
        return state.x_adv


class Curve(NamedTuple):
    """The changes of the pixels as functions of a place on the line, monotone and made of pieces.

    Attributes:
        value: changes ``(N, d)`` at places ``(N, d)``; its slopes are 0 and 1.
        place: where each pixel is as long as the plane does not matter, ``(N, d)``.
        bends: the places where the slope changes, ``(N, B, d)``.
        turns: whether it rises there, 1, or ends to rise, -1, ``(B,)``.
    """

    value: Callable[[Tensor], Tensor]
    place: Tensor
    bends: Tensor
    turns: Tensor


Pull = Callable[[Tensor, Tensor, Tensor, Tensor], Curve]


def pull_l2(change: Tensor, low: Tensor, high: Tensor, pull: Tensor) -> Curve:
    """All changes shrink by the same share."""
    bends, turns = torch.stack([low, high], dim=1), change.new_tensor([1, -1])
    return Curve(lambda z: z.clamp(low, high), (1 - pull) * change, bends, turns)


def pull_linf(change: Tensor, low: Tensor, high: Tensor, pull: Tensor) -> Curve:
    """No change is larger than a share 1 - p of the largest that may be."""
    cap = (1 - pull) * high.maximum(-low).amax(dim=1, keepdim=True)
    low, high = low.maximum(-cap), high.minimum(cap)
    return pull_l2(change, low, high, torch.zeros_like(pull))


def pull_l1(change: Tensor, low: Tensor, high: Tensor, pull: Tensor) -> Curve:
    """All changes shrink by the same amount, and those that are smaller vanish."""
    by = pull / (1 - pull)
    bends = torch.stack([low - by, (-by).expand_as(low), by.expand_as(low), high + by], dim=1)

    def value(z: Tensor) -> Tensor:
        return (z - z.clamp(-by, by)).clamp(low, high)

    return Curve(value, change, bends, change.new_tensor([1, -1, 1, -1]))


PULLS: Mapping[str, Pull] = MappingProxyType({"l2": pull_l2, "linf": pull_linf, "l1": pull_l1})


def nearest_in_reach(
    here: Tensor, x: Tensor, normal: Tensor, lacking: Tensor, radius: Tensor, pull: Pull
) -> Tensor:
    r"""The point of a plane, of the box and of a ball around ``here`` that is nearest to ``x``.

    Two of Lagrange's multipliers remain: the pull p in [0, 1) towards x, which weighs the distance
    to it against that to ``here``, and lambda, of the plane. Given both, the pixels decide for
    themselves: each changes by a function of :math:`z + \lambda b` that is monotone and has a few
    bends. So for a pull lambda is found exactly, by sorting the bends. The way from ``here`` grows
    with the pull, so the largest that stays in the ball is found by bisection.

    Where the plane is out of reach, the step is towards its nearest point, cut to the ball.

    Args:
        here: ``(N, C, H, W)``, in the box.
        x: the clean images.
        normal: b, of their shape.
        lacking: c; the plane is :math:`\langle b, \delta\rangle = c`, ``(N,)``.
        radius: of the ball, in L2, ``(N, 1, 1, 1)``.
        pull: that of the norm, of ``PULLS``.
    """
    clean = x.flatten(1).double()
    change = here.flatten(1).double() - clean
    # In the ball no change is larger than this, so that no pull is wasted on those that are.
    widest = change.abs().amax(dim=1, keepdim=True) + radius.flatten(1)
    low, high = (-clean).maximum(-widest), (1 - clean).minimum(widest)
    b = normal.flatten(1).double()
    scale = b.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(normal.dtype).tiny)
    b = torch.where(b.abs() < FAINT * scale, 0, b / scale)
    goal = lacking[:, None].double() / scale + (b * change).sum(dim=1, keepdim=True)

    best = torch.zeros_like(change)
    near, far = torch.zeros_like(goal), torch.ones_like(goal)
    share = near
    for _ in range(1 + SEARCHES):
        moved, met = onto(goal, b, pull(change, low, high, share))
        within = met & (norms_l2(moved - change).flatten(1) <= radius.flatten(1))
        best = torch.where(within | (share == 0), moved, best)
        near, far = torch.where(within, share, near), torch.where(within, far, share)
        share = (near + far) / 2
    step = (best - change).reshape(x.shape).to(x)
    return (here + shorten_l2(step, radius)).clamp(0, 1)


def onto(goal: Tensor, b: Tensor, curve: Curve) -> tuple[Tensor, Tensor]:
    """The changes ``(N, d)`` at the lambda where ``<b, change>`` is the goal, ``(N, 1)``.

    And whether there is one, ``(N, 1)`` bool; else those that come nearest.
    """
    value, place, bends, turns = curve
    moves = (b != 0)[:, None].expand_as(bends)
    times = torch.where(moves, (bends - place[:, None]) / torch.where(b != 0, b, 1)[:, None], 0)
    # With lambda the sum rises by b^2 for each pixel that does; where b < 0 it goes backwards.
    turned = turns[:, None] * (b * b.abs())[:, None]
    times, order = times.flatten(1).sort(dim=1)
    slopes = turned.flatten(1).gather(1, order).cumsum(dim=1)[:, :-1]
    least = (b * value(torch.where(b > 0, -torch.inf, torch.inf))).sum(dim=1, keepdim=True)
    sums = torch.cat([least, least + (slopes * times.diff(dim=1)).cumsum(dim=1)], dim=1)
    k = torch.searchsorted(sums, goal).clamp(1, sums.shape[1] - 1)
    (start, end), (below, above) = ((t.gather(1, k - 1), t.gather(1, k)) for t in (times, sums))
    share = ((goal - below) / (above - below).clamp(min=1e-300)).clamp(0, 1)
    met = (sums[:, :1] <= goal) & (goal <= sums[:, -1:])
    return value(place + (start + share * (end - start)) * b), met
