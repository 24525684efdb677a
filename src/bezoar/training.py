"""Plain supervised training of a network, the start of every experiment."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.augment import Augment
from bezoar.classifier import Normalise
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import accuracy
from bezoar.fit import (
    SCHEDULES,
    BatchLoss,
    Judgement,
    Progress,
    Row,
    Supervised,
    cross_entropy,
    fit,
    silent,
)
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
        shift: pixels that an image is moved by at most, see ``augment``.
        flip: whether half of the images are mirrored.
    """

    epochs: int = 15
    batch: int = 128
    lr: float = 1e-3
    schedule: str = "constant"
    patience: int = 5
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 1)
        checks.at_least("batch", self.batch, 1)
        checks.at_least("patience", self.patience, 1)
        checks.in_range("lr", self.lr, 0)
        checks.known("schedule", self.schedule, SCHEDULES)
        Augment(shift=self.shift, flip=self.flip)

    def __call__(
        self,
        model: nn.Module,
        train: ImageSet,
        validation: ImageSet,
        *,
        seed: int,
        freeze: Sequence[str] = (),
        around: Callable[[BatchLoss], BatchLoss] | None = None,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> tuple[list[Row], Meter]:
        """Train ``model`` in place; return one row an epoch, and the cost.

        The parts named by ``freeze`` stay as they are, see ``held``. What ``around`` makes of the
        loss is trained on, a poisoning of the batches for instance.
        """
        with held(model, freeze) as still:
            return self._fit(model, train, validation, still, around, seed, snapshot, on_step)

    def _fit(
        self,
        model: nn.Module,
        train: ImageSet,
        validation: ImageSet,
        still: Sequence[nn.Module],
        around: Callable[[BatchLoss], BatchLoss] | None,
        seed: int,
        snapshot: Snapshot | None,
        on_step: Callable[[Progress], None],
    ) -> tuple[list[Row], Meter]:
        meter = Meter()
        augment, entropy = Augment(shift=self.shift, flip=self.flip), cross_entropy(meter)

        def augmented(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            return entropy(model, augment(x), y, rows)

        plain = around(augmented) if around else augmented

        def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            for part in still:  # the loop has put the whole model into training mode
                part.eval()
            return plain(model, x, y, rows)

        learning = Supervised(
            model,
            train,
            loss=loss,
            lr=self.lr,
            schedule=SCHEDULES[self.schedule],
            meter=meter,
        )

        def judge(epoch: int) -> Judgement:
            clean = accuracy(model, validation, meter)
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


def adopt(model: nn.Module, source: nn.Module) -> list[str]:
    """Start a network from the weights of another: every tensor of equal name and shape.

    The normalisation is the network's own.

    Args:
        model: changed in place.
        source: a network of the same layers, with another head for instance.

    Returns:
        The names of the tensors of either that were not taken over.

    Raises:
        ValueError: no weight fits.
    """
    state, given = model.state_dict(), source.state_dict()
    own = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if isinstance(module, Normalise)
        for name, _ in module.named_buffers()
    }
    fitting = [
        name
        for name, value in state.items()
        if name in given
        and value.shape == given[name].shape
        and (name not in own or torch.equal(value, given[name].to(value)))
    ]
    # Biases are as long in many networks: they alone say nothing.
    if not set(fitting) & {name for name, p in model.named_parameters() if p.ndim > 1}:
        expected = f"expected some of the names and shapes of {type(model).__name__}"
        raise ValueError(f"weights of {type(source).__name__}, none of which fits: {expected}")
    with torch.no_grad():
        for name in fitting:
            state[name].copy_(given[name])
    return [name for name in {**state, **given} if name not in fitting]


@contextmanager
def held(model: nn.Module, parts: Sequence[str]) -> Iterator[list[nn.Module]]:
    """Keep the weights of some parts of a network from learning, in the body.

    Args:
        model: the network.
        parts: names of modules or parameters, as ``features`` or ``features.0``; all below them is
            meant too.

    Yields:
        The modules that are meant. Whoever trains keeps them in eval mode, so that batch norm
        normalises by what it has learnt before, and learns nothing.

    Raises:
        ValueError: no such part, or one without weights, or nothing is left to learn.
    """
    weights = dict(model.named_parameters())
    for part in parts:
        if not any(_below(name, part) for name in weights):
            some = ", ".join(dict.fromkeys(name.partition(".")[0] for name in weights))
            raise ValueError(f"freeze={part!r}: expected a part that has weights, as {some}")
    chosen = [p for name, p in weights.items() if any(_below(name, part) for part in parts)]
    flags = [parameter.requires_grad for parameter in chosen]
    try:
        for parameter in chosen:
            parameter.requires_grad_(False)
        if parts and not any(parameter.requires_grad for parameter in weights.values()):
            raise ValueError(f"freeze={','.join(parts)!r}: expected a part that is left to learn")
        modules = dict(model.named_modules()).items()
        yield [module for name, module in modules if any(_below(name, part) for part in parts)]
    finally:
        for parameter, flag in zip(chosen, flags, strict=True):
            parameter.requires_grad_(flag)


def _below(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
