"""Pixle: pixels of the image put in other places."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen, l0_distance
from bezoar.seeds import Noise, hashed


class Found(NamedTuple):
    """State of every image; images ``(N, C, H, W)``, numbers ``(N,)``.

    Attributes:
        x_adv: what the next patches are put on.
        x: the clean image, which they are taken from.
        top: the best image so far.
        value: the loss there.
        age: patches tried.
        key: of the noise.
    """

    x_adv: Tensor
    x: Tensor
    top: Tensor
    value: Tensor
    age: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class Pixle(Attack):
    """Random search over copies of a patch's pixels to random places.

    A query takes a window of the clean image, of random size and place, and writes each of its
    pixels over a random pixel of the image. After ``tries`` queries the image is replaced by the
    best of them, if its cross-entropy is higher. Colours are those that the image has. Paper:
    arXiv:2202.02236, section 3, with random destinations. Cost: ``steps`` forward passes an image
    and one more, and one that judges the best; no backward pass.

    Args:
        eps: number of values that may change, infinite by default; a pixel has as many as the
            image has channels.
        steps: number of queries of all rounds together.
        tries: queries of a round.
        least: smallest side of the window, in pixels.
        most: largest side of the window, in pixels, at most that of the image.
    """

    eps: float = float("inf")
    steps: int = 200
    tries: int = 10
    least: int = 2
    most: int = 10
    norm: str = field(default="l0", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.radius("eps", self.eps)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("tries", self.tries, 1)
        checks.at_least("least", self.least, 1)
        checks.at_least("most", self.most, self.least)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Found:
        key = noise.keys().to(x.device)
        value = cross_entropy(oracle.logits(x), oracle.goal)
        return Found(x, x, x, value, torch.zeros_like(key), key)

    def step(self, state: Found, oracle: Oracle) -> Found:
        s = state
        on = chosen(s.age % self.tries == 0, s.top, s.x_adv)
        tried = self._rearranged(s, on)
        value = cross_entropy(oracle.logits(tried), oracle.goal)
        better = (value > s.value) & (l0_distance(tried, s.x) <= self.eps)
        return Found(
            x_adv=on,
            x=s.x,
            top=chosen(better, tried, s.top),
            value=torch.where(better, value, s.value),
            age=s.age + 1,
            key=s.key,
        )

    def best(self, state: Found) -> Tensor:
        return state.top

    def _rearranged(self, s: Found, on: Tensor) -> Tensor:
        """A window of the clean image, its pixels written to random places of ``on``."""
        n, channels, height, width = s.x.shape
        size = height * width
        draws = hashed(s.key, s.age, (4 + size,))
        rows = self._span(draws[:, 0], draws[:, 1], height)
        columns = self._span(draws[:, 2], draws[:, 3], width)
        inside = (rows[:, :, None] & columns[:, None, :]).flatten(1)
        to = (draws[:, 4:] * size).long().clamp(max=size - 1)
        # Where several come to lie on one another the last is seen, on every device.
        source = torch.where(inside, torch.arange(size, device=to.device), -1)
        shown = torch.full_like(source, -1).scatter_reduce(1, to, source, "amax")
        shown = shown[:, None].expand(n, channels, size)
        copied = s.x.flatten(2).gather(2, shown.clamp(min=0))
        return torch.where(shown >= 0, copied, on.flatten(2)).reshape(on.shape)

    def _span(self, draw: Tensor, place: Tensor, length: int) -> Tensor:
        """Positions of a window of random length at a random place of a line, ``(N, length)``."""
        least, most = min(self.least, length), min(self.most, length)
        side = least + (draw * (most - least + 1)).long()
        first = (place * (length - side + 1)).long()[:, None]
        position = torch.arange(length, device=draw.device)
        return (position >= first) & (position < first + side[:, None])
