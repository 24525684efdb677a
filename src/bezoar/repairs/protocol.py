"""What a repair is, and when it is done."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from bezoar import checks
from bezoar.attacks import PGD, Attack, Untargeted
from bezoar.attacks.engine import search
from bezoar.classifier import predict, prepare
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defence
from bezoar.fit import Judgement
from bezoar.seeds import Noise


class Repair(Defence, Protocol):
    """A defence that changes the classifier itself: a call gives a repaired copy back."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a repair is done: at a robust accuracy on validation images, or at its budget.

    Args:
        rounds: budget.
        target: robust accuracy under ``judge`` at which to stop; above 1 is never.
        judge: a fresh attack on the current weights, white-box.
        images: how many validation images it attacks, the first of the split; 0 is all.
    """

    rounds: int = 10
    target: float = 0.95
    judge: Attack = field(default_factory=lambda: PGD(eps=0.1, steps=10))
    images: int = 1000

    def __post_init__(self) -> None:
        checks.at_least("rounds", self.rounds, 1)
        checks.in_range("target", self.target, 0)
        checks.at_least("images", self.images, 0)

    def judgement(
        self, model: nn.Module, validation: ImageSet, *, round_: int, seed: int, meter: Meter
    ) -> Judgement:
        """Clean and robust accuracy of the model now; ``round_`` gives the attack fresh noise."""
        images = validation.at_most(self.images)
        x, y = images.batch(slice(None))
        prepared = prepare(model)
        right = predict(prepared, x).argmax(dim=1) == y
        meter.forward += len(x)
        robust = right.clone()
        if right.any():
            index = images.index[right.numpy()]
            noise = Noise(seed, "judge", index, np.full(len(index), round_))
            goal = Untargeted(y[right])
            found = search(self.judge, prepared, x[right], goal, noise)
            robust[right] = predict(prepared, found.x_adv).argmax(dim=1) == goal.aim
            meter.forward += int(found.forward.sum()) + len(goal.aim)
            meter.backward += int(found.backward.sum())
        clean, standing = (torch.mean(part.double()).item() for part in (right, robust))
        row = {"clean": clean, "robust": standing}
        return Judgement(row, score=standing, stop=standing >= self.target)
