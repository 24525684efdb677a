"""What an attack is, and what it may ask for while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.seeds import Noise


class Goal(Protocol):
    """What the attacker wants, as a value: one entry an image, so that it can be compacted."""

    def loss(self, logits: Tensor) -> Tensor:
        """The loss that the attack ascends, ``(N, K)`` to ``(N,)``."""

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the classifier is fooled, ``(N, K)`` to ``(N,)`` bool."""

    def take(self, rows: Tensor) -> Goal:
        """The goal for some of the images, on the device of ``rows``."""


@dataclass(frozen=True, eq=False)
class Untargeted:
    """Any class but the true one: ascend the cross-entropy of ``y``, ``(N,)`` int64."""

    y: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, self.y, reduction="none")

    def reached(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1) != self.y

    def take(self, rows: Tensor) -> Untargeted:
        return Untargeted(self.y.to(rows.device)[rows])


@dataclass(frozen=True, eq=False)
class Targeted:
    """One class of the attacker's choice: descend the cross-entropy of ``target``, ``(N,)``."""

    target: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        return -F.cross_entropy(logits, self.target, reduction="none")

    def reached(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1) == self.target

    def take(self, rows: Tensor) -> Targeted:
        return Targeted(self.target.to(rows.device)[rows])


class Oracle(Protocol):
    """What an attack may ask of the classifier; every pass is counted by whoever answers."""

    def ascent(self, x: Tensor) -> Tensor:
        """Gradient of the goal's loss at ``x``, of the shape of ``x``.

        The loss is summed over images, so an image's gradient does not depend on its batch.
        Cost: one forward and one backward pass an image.
        """


class Ball(NamedTuple):
    """State of an attack that only remembers where it is and around what: both ``(N, C, H, W)``.

    Every entry of a state has a leading N, so that the engine can drop images and add others.
    """

    x_adv: Tensor
    x: Tensor


class Attack(Protocol):
    """The mathematics of one attack: a frozen dataclass of numbers. The engine owns the loop.

    Attributes:
        norm: name of the norm of the ball, a key of ``geometry.DISTANCES``.
        eps: radius of the ball, in pixel units of [0, 1]; 0 leaves images as they are.
        steps: how often the engine calls ``step``.
        restarts: how many starts an image gets before the attack gives up on it.
    """

    norm: str
    eps: float
    steps: int
    restarts: int

    def start(self, x: Tensor, goal: Goal, noise: Noise) -> Any:
        """The state before the first step, a NamedTuple of tensors with a leading N."""

    def step(self, state: Any, oracle: Oracle) -> Any:
        """One step for all images of the state; may not mix images."""

    def best(self, state: Any) -> Tensor:
        """The adversarial images ``(N, C, H, W)`` of a state."""

    def __call__(self, classifier: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0) -> Tensor:
        """Attack a batch towards any wrong class, in one line, and return the images.

        The engine's ``search``: an image that is fooled is left as it is from then on.

        Args:
            classifier: images to logits; it is not changed.
            x: clean images, ``(N, C, H, W)`` float32 in [0, 1].
            y: true classes, ``(N,)`` int64.
            seed: names the noise together with each image's position in the batch.
        """
        import numpy as np

        from bezoar import checks
        from bezoar.attacks.engine import search
        from bezoar.classifier import prepare

        checks.images(x, "x")
        noise = Noise.first(seed, type(self).__name__, np.arange(len(x)))
        return search(self, prepare(classifier), x, Untargeted(y), noise).x_adv.to(x)
