"""What repairs share that train by SGD with momentum: six settings, their checks, the learner."""

from typing import Protocol

from torch import nn

from bezoar import checks
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import SCHEDULES, SGD, BatchLoss, Supervised


class Settings(Protocol):
    """A repair with the fields of ``FineTune``."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def require(settings: Settings) -> None:
    """Require settings that a training can have.

    Raises:
        ValueError: another one.
    """
    checks.at_least("epochs", settings.epochs, 1)
    checks.at_least("batch", settings.batch, 1)
    checks.in_range("lr", settings.lr, 0)
    checks.known("schedule", settings.schedule, SCHEDULES)
    SGD(momentum=settings.momentum, weight_decay=settings.weight_decay)


def learner(
    settings: Settings, model: nn.Module, images: ImageSet, loss: BatchLoss, meter: Meter
) -> Supervised:
    """A model that learns from images by these settings; its weights are changed."""
    return Supervised(
        model,
        images,
        loss=loss,
        lr=settings.lr,
        schedule=SCHEDULES[settings.schedule],
        optimize=SGD(momentum=settings.momentum, weight_decay=settings.weight_decay),
        meter=meter,
    )
