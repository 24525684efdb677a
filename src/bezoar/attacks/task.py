"""What every way to run an attack gets and gives back, and how its state is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bezoar.attacks.oracle import Answers, Keep, classifier_keys
from bezoar.attacks.protocol import Attack, Goal
from bezoar.classifier import device_of
from bezoar.seeds import Noise


@dataclass(frozen=True, eq=False)
class Attacked:
    """What the engine hands back, on the CPU; whether an image is fooled is for the referee to say.

    Attributes:
        x_adv: adversarial images, ``(N, C, H, W)``.
        first_success: step at which the engine first saw the goal reached, -1 for never, ``(N,)``.
        forward, backward: passes spent on each image, ``(N,)`` int64.
        zero_gradient: the first gradient was exactly zero everywhere, ``(N,)`` bool.
    """

    x_adv: Tensor
    first_success: Tensor
    forward: Tensor
    backward: Tensor
    zero_gradient: Tensor

    @classmethod
    def none_yet(cls, x: Tensor) -> "Attacked":
        """The clean images, and nothing found or spent."""
        number = torch.zeros(len(x), dtype=torch.int64)
        return cls(x.cpu().clone(), number - 1, number.clone(), number, number > 0)


@dataclass(frozen=True, eq=False)
class Task:
    """One attack on some images; arguments as in ``engine.perturb``."""

    attack: Attack
    classifier: nn.Module
    x: Tensor
    goal: Goal
    noise: Noise
    batch: int
    draws: int

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.classifier)

    @cached_property
    def keys(self) -> Tensor | None:
        """Of the noise of a random classifier."""
        return classifier_keys(self.classifier, self.noise)

    def take(self, rows: Tensor) -> "Task":
        """The same attack on some of the images."""
        return replace(
            self,
            x=self.x[rows],
            goal=self.goal.take(rows.to(self.device)),
            noise=self.noise.take(rows.numpy(), self.noise.draws[rows.numpy()]),
        )

    def judging(self) -> "Task":
        """The same with noise of its own, to judge what the attack found."""
        return replace(self, noise=self._stream("judge"))

    def parts(self) -> "list[Task]":
        """The parts of the attack, each with noise of its own."""
        parts = enumerate(self.attack.parts)
        return [replace(self, attack=part, noise=self._stream(f"part {k}")) for k, part in parts]

    def _stream(self, name: str) -> Noise:
        return replace(self.noise, stream=f"{self.noise.stream}/{name}")

    def clean(self, rows: Tensor) -> Tensor:
        """Some of the clean images, where the classifier is."""
        return self.x[rows].to(self.device)

    def answers(
        self, rows: Tensor, clean: Tensor, *, keep: Keep = "first", asked: Tensor | None = None
    ) -> Answers:
        """What answers questions about some of the images."""
        there = rows.to(self.device)
        keys = None if self.keys is None else self.keys[there]
        return Answers(
            self.classifier,
            self.attack,
            clean,
            self.goal.take(there),
            keep=keep,
            keys=keys,
            asked=asked,
            draws=self.draws,
        )

    def start(self, rows: Tensor, clean: Tensor, answers: Answers, restart: Tensor | int) -> Any:
        """The state of some of the images before the first step of a start."""
        draws = self.noise.draws[rows.numpy()] + np.asarray(restart)
        return self.attack.start(clean, answers, self.noise.take(rows.numpy(), draws))

    def best(self, state: Any) -> Tensor:
        """The adversarial images of a state.

        Raises:
            ValueError: they are not of the shape of the images: they would be spread over them.
        """
        points = self.attack.best(state)
        expected = (len(state[0]), *self.x.shape[1:])
        if points.shape != expected:
            found = f"x_adv of shape {tuple(points.shape)}: expected {expected}"
            raise ValueError(f"{found}; correct {self.attack!r}")
        return points

    def unpacked(self, saved: Sequence[Sequence[Any]]) -> Any:
        """The state that was ``packed``.

        What kind of state an attack has shows when it starts: on one image, and not counted.
        """
        one = torch.zeros(1, dtype=torch.int64)
        clean = self.clean(one)
        kind = type(self.start(one, clean, self.answers(one, clean), 0))
        return kind(*(unpacked(entry, self.device) for entry in saved))


def packed(tensor: Tensor) -> list[Any]:
    """A tensor for a snapshot, with its layout: convolutions round otherwise in another one."""
    wide = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return [tensor, wide and not tensor.is_contiguous()]


def unpacked(saved: Sequence[Any], device: torch.device) -> Tensor:
    """The tensor that was ``packed``."""
    tensor, channels_last = saved
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found: Tensor = tensor.to(device).contiguous(memory_format=layout)
    return found
