"""Correct: learn the true labels of adversarial twins. The field calls it adversarial training."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks import PGD, Attack
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence
from bezoar.fit import SCHEDULES, Judgement, Progress, Supervised, fit, silent
from bezoar.repairs.protocol import Repair, Stop
from bezoar.repairs.selection import All, Selection
from bezoar.repairs.twins import Online, Schedule
from bezoar.snapshots import Snapshot, Tree


@dataclass(frozen=True, kw_only=True)
class Correct(Repair):
    r"""Train on images and their adversarial twins, both with the true label.

    .. math::
        \min_\theta\; (1 - \lambda)\, L\bigl(f_\theta(x), y\bigr)
        + \lambda\, L\bigl(f_\theta(x'), y\bigr), \qquad x' = \mathrm{inner}(x)

    where only the selected twins count. This is what the introduction of arXiv:2511.01377
    describes as unlearning; with ``twins=Online()`` and ``PGD`` inside it is the adversarial
    training of arXiv:1706.06083 (lam=1) or its mixed form of arXiv:1412.6572 (lam=0.5).

    Cost: an epoch with one twin an image is 2 passes each way an image, and those of ``inner``.

    Args:
        inner: the attack that makes the twins; its eps is what the repair is for.
        twins: when they are made.
        select: which of them are learnt from.
        lam: weight of the twins, in [0, 1].
        lr: learning rate of Adam.
        schedule: a name in ``fit.SCHEDULES``.
        batch: images a step; each comes with its twins.
        stop: target and budget; a round is an epoch. The best round on validation is kept.
    """

    inner: Attack = field(default_factory=lambda: PGD(eps=0.1, steps=5))
    twins: Schedule = field(default_factory=Online)
    select: Selection = field(default_factory=All)
    lam: float = 0.5
    lr: float = 1e-3
    schedule: str = "constant"
    batch: int = 128
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        checks.in_range("lam", self.lam, 0, 1)
        checks.in_range("lr", self.lr, 0)
        checks.at_least("batch", self.batch, 1)
        checks.known("schedule", self.schedule, SCHEDULES)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        trainable = Correction(self, deepcopy(classifier), evidence.train, seed)

        def judge(epoch: int) -> Judgement:
            judged = self.stop.judgement(
                trainable.model,
                evidence.validation,
                round_=epoch + 1,
                seed=seed,
                meter=trainable.meter,
            )
            row = {**judged.row, "added": float(trainable.added), "removed": 0.0}
            return Judgement(row, score=judged.score, stop=judged.stop)

        log = fit(
            trainable,
            epochs=self.stop.rounds,
            batch=self.batch,
            seed=seed,
            judge=judge,
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(trainable.model, log, trainable.meter)


class Correction:
    """The training behind ``Correct``: images and their twins, step by step."""

    def __init__(self, repair: Correct, model: nn.Module, images: ImageSet, seed: int) -> None:
        self.model, self.meter, self._repair = model, Meter(), repair
        self.added = 0  # twins learnt from in this round
        self._source = repair.twins.source(repair.inner, images, seed, self.meter)
        self._learning = Supervised(
            model,
            images,
            loss=self._loss,
            lr=repair.lr,
            schedule=SCHEDULES[repair.schedule],
            meter=self.meter,
        )

    def begin(self, epoch: int) -> int:
        self.added = 0
        self._source.begin(self.model, epoch)
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        return self._learning.step(rows, position)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        lam = self._repair.lam
        twins = self._source.twins(model, x, y, rows)
        # With lam = 1 the clean images have no weight: their passes would be for nothing.
        sets = [x, *twins] if lam < 1 else twins
        self.meter.forward += len(sets) * len(x)
        self.meter.backward += len(sets) * len(x)
        logits = list(model(torch.cat(sets)).split(len(x)))
        clean = F.cross_entropy(logits.pop(0), y) if lam < 1 else torch.zeros(()).to(x)
        of_twins = torch.stack([self._of_twin(part, y) for part in logits])
        return (1 - lam) * clean + lam * of_twins.mean()

    def _of_twin(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of the selected twins; zero where none is selected."""
        each = F.cross_entropy(logits, y, reduction="none")
        chosen = self._repair.select(each.detach(), logits.detach().argmax(dim=1) != y)
        count = int(chosen.sum())
        self.added += count
        return (each * chosen).sum() / max(count, 1)

    def state_dict(self) -> Tree:
        source = self._source.state_dict()
        return {"learning": self._learning.state_dict(), "source": source, "added": self.added}

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._source.load_state_dict(state["source"], self.model)
        self.added = state["added"]
