"""The attack of Carlini and Wagner in L2."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.balance import next_weight
from bezoar.attacks.losses import margin
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import wide
from bezoar.seeds import Noise

DECAYS = (0.9, 0.999)  # of Adam
EDGE = 1 - 1e-6  # images are drawn in from the ends of [0, 1], where tanh has no inverse


class Search(NamedTuple):
    """State of every image; images ``(N, C, H, W)``, numbers ``(N, 1, 1, 1)`` but ``age``.

    Attributes:
        w: the variable; the image is (tanh w + 1) / 2.
        x: the clean image.
        mean, square: moments of Adam.
        c: weight of the loss.
        low, high: between them the smallest c that fools is looked for.
        fooled: whether this c has fooled.
        age: steps taken, ``(N,)``.
    """

    w: Tensor
    x: Tensor
    mean: Tensor
    square: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    fooled: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True)
class CWL2(Attack):
    r"""Minimise distance and loss together, by Adam, and search for their balance.

    .. math::
        \min_w\; \lVert x' - x\rVert_2^2 + c\,\max\bigl(z_y - \max_{j \ne y} z_j, -\kappa\bigr),
        \qquad x' = \tfrac12(\tanh w + 1)

    with z the logits at x'. The smallest c that fools is looked for by multiplying it by 10 until
    it does and halving the interval from then on. Paper: arXiv:1608.04644, sections V and VI.
    Cost: ``steps`` forward and backward passes an image and one forward pass.

    Args:
        eps: radius of what counts as found, in L2; infinite by default.
        steps: number of steps of all searches together.
        searches: number of values of c.
        lr: learning rate of Adam.
        c: the first value of c.
        kappa: by how much the wrong class is to lead, in logits.
    """

    eps: float = float("inf")
    steps: int = 9000
    searches: int = 9
    lr: float = 0.01
    c: float = 1e-3
    kappa: float = 0.0
    norm: str = field(default="l2", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)
    refines: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("searches", self.searches, 1)
        checks.at_least("steps", self.steps, self.searches)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("c", self.c, 0)
        checks.in_range("kappa", self.kappa, 0)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Search:
        zero = torch.zeros_like(x)
        number = x.new_zeros(len(x), 1, 1, 1)
        return Search(
            w=_inverse(x),
            x=x,
            mean=zero,
            square=zero,
            c=number + self.c,
            low=number,
            high=number + torch.inf,
            fooled=number > 0,
            age=torch.zeros(len(x), dtype=torch.int64, device=x.device),
        )

    def step(self, state: Search, oracle: Oracle) -> Search:
        s = self._next_search(state)
        x_adv = _image(s.w)
        lead, gradient = oracle.gradient(x_adv, margin)
        active = wide(lead < self.kappa)
        fooled = s.fooled | wide(oracle.fooled)
        of_image = 2 * (x_adv - s.x) - s.c * active * gradient
        of_w = of_image * 2 * x_adv * (1 - x_adv)  # (tanh w)' / 2
        first, second = DECAYS
        mean = first * s.mean + (1 - first) * of_w
        square = second * s.square + (1 - second) * of_w.square()
        k = wide(s.age % self._iterations + 1).to(s.x)
        slope = (mean / (1 - first**k)) / ((square / (1 - second**k)).sqrt() + 1e-8)
        return s._replace(
            w=s.w - self.lr * slope, mean=mean, square=square, fooled=fooled, age=s.age + 1
        )

    def best(self, state: Search) -> Tensor:
        return _image(state.w)

    @property
    def _iterations(self) -> int:
        return self.steps // self.searches

    def _next_search(self, s: Search) -> Search:
        """Where a search has ended, the next c, from the clean image again."""
        ended = wide((s.age > 0) & (s.age % self._iterations == 0))
        c, low, high = next_weight(s.c, s.low, s.high, s.fooled, ended)
        return s._replace(
            w=torch.where(ended, _inverse(s.x), s.w),
            mean=torch.where(ended, 0, s.mean),
            square=torch.where(ended, 0, s.square),
            c=c,
            low=low,
            high=high,
            fooled=s.fooled & ~ended,
        )


def _image(w: Tensor) -> Tensor:
    return (torch.tanh(w) + 1) / 2


def _inverse(x: Tensor) -> Tensor:
    return torch.atanh((2 * x - 1) * EDGE)
