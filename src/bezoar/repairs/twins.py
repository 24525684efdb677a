"""When the adversarial twins of the training images are made: values for ``Correct``."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from bezoar.attacks import Attack, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.classifier import frozen
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.seeds import Noise
from bezoar.snapshots import Tree


class TwinSource(Protocol):
    """Hands out the twins of a batch during training, and remembers what it must for a resume."""

    def begin(self, model: nn.Module, epoch: int) -> None:
        """A round begins with these weights."""

    def twins(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> list[Tensor]:
        """The twins of a batch: one or more sets of the shape of ``x``."""

    def state_dict(self) -> Tree: ...

    def load_state_dict(self, state: Tree, model: nn.Module) -> None: ...


class Schedule(Protocol):
    """A value that opens a source of twins for one repair."""

    def source(self, attack: Attack, images: ImageSet, seed: int, meter: Meter) -> TwinSource: ...


@dataclass(frozen=True)
class Online:
    """Make them for each mini-batch on the weights of that moment (arXiv:1706.06083)."""

    def source(self, attack: Attack, images: ImageSet, seed: int, meter: Meter) -> TwinSource:
        return _OnlineTwins(attack, images, seed, meter)


@dataclass(frozen=True)
class ByRound:
    """Make them all once a round, on the weights that the round begins with.

    This is the literal reading of periodic retraining on adversarial examples. After the first
    batches the twins are stale: a demonstration, not a defence.
    """

    def source(self, attack: Attack, images: ImageSet, seed: int, meter: Meter) -> TwinSource:
        return _StoredTwins(attack, images, seed, meter, keep=1)


@dataclass(frozen=True)
class Accumulate:
    """As ``ByRound``, but keep the twins of all earlier rounds and learn from all of them."""

    def source(self, attack: Attack, images: ImageSet, seed: int, meter: Meter) -> TwinSource:
        return _StoredTwins(attack, images, seed, meter, keep=None)


class _OnlineTwins:
    def __init__(self, attack: Attack, images: ImageSet, seed: int, meter: Meter) -> None:
        self._make = _twin_maker(attack, images, seed, meter)
        self._epoch = 0

    def begin(self, model: nn.Module, epoch: int) -> None:
        self._epoch = epoch

    def twins(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> list[Tensor]:
        return [self._make(model, x, y, rows, self._epoch)]

    def state_dict(self) -> Tree:
        return {"epoch": self._epoch}

    def load_state_dict(self, state: Tree, model: nn.Module) -> None:
        self._epoch = state["epoch"]


class _StoredTwins:
    """Twins of whole rounds. A snapshot holds the weights they were made on, not the images.

    The weights are a thousandth of the size, and noise by image makes the same twins of them.
    """

    def __init__(
        self, attack: Attack, images: ImageSet, seed: int, meter: Meter, keep: int | None
    ) -> None:
        self._make = _twin_maker(attack, images, seed, meter)
        self._images, self._keep, self._meter = images, keep, meter
        self._rounds: list[tuple[int, Tree]] = []
        self._twins: list[Tensor] = []

    def begin(self, model: nn.Module, epoch: int) -> None:
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._add(epoch, weights, model)

    def _add(self, epoch: int, weights: Tree, model: nn.Module) -> None:
        x, y = self._images.batch(slice(None))
        maker = deepcopy(model)
        maker.load_state_dict(weights)
        self._rounds.append((epoch, weights))
        self._twins.append(self._make(maker, x, y, slice(None), epoch))
        if self._keep is not None:
            self._rounds, self._twins = self._rounds[-self._keep :], self._twins[-self._keep :]

    def twins(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> list[Tensor]:
        return [twins[rows].to(x) for twins in self._twins]

    def state_dict(self) -> Tree:
        return {"rounds": [[epoch, weights] for epoch, weights in self._rounds]}

    def load_state_dict(self, state: Tree, model: nn.Module) -> None:
        # Making the same twins again is the price of an interruption, not of the repair.
        before = (self._meter.forward, self._meter.backward)
        for epoch, weights in state["rounds"]:
            self._add(epoch, weights, model)
        self._meter.forward, self._meter.backward = before


TwinMaker = Callable[[nn.Module, Tensor, Tensor, "Tensor | slice", int], Tensor]


def _twin_maker(attack: Attack, images: ImageSet, seed: int, meter: Meter) -> TwinMaker:
    def make(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor | slice, epoch: int) -> Tensor:
        index = images.index[rows if isinstance(rows, slice) else rows.numpy()]
        noise = Noise(seed, "twins", index, np.full(len(index), epoch))
        with frozen(model):
            found = perturb(attack, model, x, Untargeted(y), noise)
        meter.forward += int(found.forward.sum())
        meter.backward += int(found.backward.sum())
        return found.x_adv.to(x)

    return make
