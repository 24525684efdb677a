"""Plain supervised training of a network, the start of every experiment."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.classifier import predict
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import SCHEDULES, Judgement, Progress, Row, Supervised, cross_entropy, fit, silent
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class Training:
    """Train on the cross-entropy with Adam; keep the epoch that is best on validation.

    Cost: one pass each way an image and an epoch, and one forward pass a validation image.

    Args:
        epochs: budget.
        batch: images a step.
        lr: learning rate.
        schedule: a name in ``fit.SCHEDULES``.
        patience: stop after so many epochs without a better validation accuracy.
    """

    epochs: int = 15
    batch: int = 128
    lr: float = 1e-3
    schedule: str = "constant"
    patience: int = 5

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 1)
        checks.at_least("batch", self.batch, 1)
        checks.at_least("patience", self.patience, 1)
        checks.in_range("lr", self.lr, 0)
        checks.known("schedule", self.schedule, SCHEDULES)

    def __call__(
        self,
        model: nn.Module,
        train: ImageSet,
        validation: ImageSet,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> tuple[list[Row], Meter]:
        """Train ``model`` in place; return one row an epoch, and the cost."""
        meter = Meter()
        learning = Supervised(
            model,
            train,
            loss=cross_entropy(meter),
            lr=self.lr,
            schedule=SCHEDULES[self.schedule],
            meter=meter,
        )
        x, y = validation.batch(slice(None))

        def judge(epoch: int) -> Judgement:
            clean = (predict(model, x).argmax(dim=1) == y).double().mean().item()
            meter.forward += len(x)
            return Judgement({"clean": clean}, score=clean)

        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=judge,
            patience=self.patience,
            snapshot=snapshot,
            on_step=on_step,
        )
        return log, meter
