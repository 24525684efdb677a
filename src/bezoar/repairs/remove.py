"""Remove: drop training images and train again. The literal reading of the founding paper."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks import FGSM, Attack, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.classifier import predict, prepare
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence
from bezoar.fit import SCHEDULES, Judgement, Progress, Row, Supervised, cross_entropy, fit, silent
from bezoar.models import restart
from bezoar.repairs.protocol import Repair, Stop
from bezoar.seeds import Noise, derive, generator
from bezoar.snapshots import Snapshot, Tree


class Ranking(Protocol):
    """Orders candidate rows for removal, from their losses under attack or without them."""

    def __call__(self, losses: Callable[[], Tensor], count: int, seed: int) -> Tensor:
        """All ``count`` positions, the first to be dropped first."""


@dataclass(frozen=True)
class ByLoss:
    """The adversarial twin with the highest loss first."""

    def __call__(self, losses: Callable[[], Tensor], count: int, seed: int) -> Tensor:
        return losses().argsort(descending=True, stable=True)


@dataclass(frozen=True)
class AtRandom:
    """The control: any images, as many."""

    def __call__(self, losses: Callable[[], Tensor], count: int, seed: int) -> Tensor:
        return torch.randperm(count, generator=generator(seed, "remove at random"))


@dataclass(frozen=True, kw_only=True)
class Remove(Repair):
    """Attack, drop k training images, train on the rest; repeat until the target or the budget.

    The listings of arXiv:2511.01377 attack one split and drop the *positions* found there from
    another, the training split: images that have nothing to do with the attack.
    ``index_space="paper"`` repeats that with the validation split in the role of the attacked one
    (no repair here sees test images); ``"train"`` does what the text means, and drops the training
    images whose own twins have the highest loss. Controls: ``k=0`` trains again and drops
    nothing, ``rank=AtRandom()`` drops any k.

    Cost of a round: one attack on the ranked split, ``epochs`` passes each way an image.

    Args:
        attack: makes the twins that are ranked.
        index_space: whose positions are ranked, see above.
        rank: how they are ordered.
        k: images dropped a round; below 1 it is a share of the training images.
        retrain: ``"scratch"`` from new initial weights, ``"continue"`` from the present ones.
        epochs: epochs a round.
        lr, schedule, batch: of Adam, as in ``Correct``.
        stop: target and budget. The last round's classifier is returned, as the paper has it.
    """

    attack: Attack = field(default_factory=FGSM)
    index_space: Literal["paper", "train"] = "train"
    rank: Ranking = field(default_factory=ByLoss)
    k: float = 100
    retrain: Literal["scratch", "continue"] = "scratch"
    epochs: int = 3
    lr: float = 1e-3
    schedule: str = "constant"
    batch: int = 128
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        checks.known("index_space", self.index_space, ("paper", "train"))
        checks.known("retrain", self.retrain, ("scratch", "continue"))
        checks.known("schedule", self.schedule, SCHEDULES)
        checks.in_range("k", self.k, 0)
        checks.in_range("lr", self.lr, 0)
        checks.at_least("epochs", self.epochs, 1)
        checks.at_least("batch", self.batch, 1)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        trainable = Removal(self, deepcopy(classifier), evidence, seed)

        def judge(epoch: int) -> Judgement:
            if (epoch + 1) % self.epochs:
                return Judgement({})
            judged = self.stop.judgement(
                trainable.model,
                evidence.validation,
                round_=(epoch + 1) // self.epochs,
                seed=seed,
                meter=trainable.meter,
            )
            row = {**judged.row, "added": 0.0, "removed": float(trainable.removed)}
            return Judgement(row, stop=judged.stop)

        log = fit(
            trainable,
            epochs=self.stop.rounds * self.epochs,
            batch=self.batch,
            seed=seed,
            judge=judge,
            snapshot=snapshot,
            on_step=on_step,
        )
        rounds: list[Row] = [row for row in log if "robust" in row]
        log = [{**row, "round": float(number)} for number, row in enumerate(rounds)]
        return Defended(trainable.model, log, trainable.meter)


class Removal:
    """The training behind ``Remove``: plain training on a set that shrinks from round to round."""

    def __init__(self, repair: Remove, model: nn.Module, evidence: Evidence, seed: int) -> None:
        self.model, self.meter = model, Meter()
        self._repair, self._evidence, self._seed = repair, evidence, seed
        self._kept = torch.arange(len(evidence.train))
        self._count = _count(repair, len(evidence.train))
        self._learning = self._fresh()

    @property
    def removed(self) -> int:
        """Images dropped so far."""
        return len(self._evidence.train) - len(self._kept)

    def _fresh(self) -> Supervised:
        return Supervised(
            self.model,
            self._evidence.train,
            loss=cross_entropy(self.meter),
            lr=self._repair.lr,
            schedule=SCHEDULES[self._repair.schedule],
            meter=self.meter,
        )

    def begin(self, epoch: int) -> int:
        if epoch % self._repair.epochs == 0:
            self._drop(epoch // self._repair.epochs)
            if self._repair.retrain == "scratch":
                restart(self.model, seed=self._seed)
                self._learning = self._fresh()
        return len(self._kept)

    def _drop(self, round_: int) -> None:
        repair, train = self._repair, self._evidence.train
        if not self._count:
            return
        if repair.index_space == "paper":
            ranked, positions = (
                self._evidence.validation,
                torch.arange(min(len(self._evidence.validation), len(train))),
            )
        else:
            ranked, positions = train, self._kept
        order = repair.rank(
            lambda: self._losses(ranked, positions, round_),
            len(positions),
            derive(self._seed, "remove", round_),
        )
        candidates = positions[order]
        candidates = candidates[torch.isin(candidates, self._kept)]
        self._kept = self._kept[~torch.isin(self._kept, candidates[: self._count])]

    def _losses(self, images: ImageSet, positions: Tensor, round_: int) -> Tensor:
        """Cross-entropy of each image's twin, attacked on the present weights."""
        x, y = images.batch(positions)
        index: NDArray[np.int64] = images.index[positions.numpy()]
        noise = Noise(self._seed, "remove", index, np.full(len(index), round_))
        prepared = prepare(self.model)
        found = perturb(self._repair.attack, prepared, x, Untargeted(y), noise)
        self.meter.forward += int(found.forward.sum()) + len(x)
        self.meter.backward += int(found.backward.sum())
        return F.cross_entropy(predict(prepared, found.x_adv), y, reduction="none")

    def step(self, rows: Tensor, position: float) -> float:
        # Each round is a training of its own, and the schedule runs through each. Rounding must
        # not put a round's first step at the end of the round before.
        within = (position * self._repair.stop.rounds + 1e-9) % 1
        return self._learning.step(self._kept[rows], within)

    def state_dict(self) -> Tree:
        return {"learning": self._learning.state_dict(), "kept": self._kept}

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._kept = state["kept"]


def _count(repair: Remove, images: int) -> int:
    """Images dropped a round; refused at once where the rounds would use all of them up."""
    count = round(repair.k * images) if repair.k < 1 else int(repair.k)
    if count * repair.stop.rounds >= images:
        rounds = f"{repair.stop.rounds} rounds"
        raise ValueError(f"k={repair.k!r} in {rounds}: expected fewer than the {images} images")
    return count
