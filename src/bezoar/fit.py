"""The one training loop: order of the data, resume, early stop, progress.

What makes a training what it is (its model, loss, optimizer and data) stands behind a small
contract, ``Trainable``; the loop has no options about it.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, laid_out
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.seeds import derive, generator
from bezoar.snapshots import Snapshot, Tree

Row = dict[str, float]


class Trainable(Protocol):
    """Anything that learns in steps and can be put down and taken up again."""

    model: nn.Module
    meter: Meter

    def begin(self, epoch: int) -> int:
        """Get ready for an epoch (0, 1, ...); return how many rows of data it goes through."""

    def step(self, rows: Tensor, position: float) -> float:
        """Learn from the rows ``(B,)`` of this epoch; return the mean loss.

        ``position`` in [0, 1) is how far the whole training has come: schedules depend on it.
        """

    def state_dict(self) -> Tree:
        """Everything that ``load_state_dict`` needs to go on to the bit."""

    def load_state_dict(self, state: Tree) -> None: ...


@dataclass(frozen=True)
class Judgement:
    """What is said of the model after an epoch.

    Args:
        row: columns for the log.
        score: higher is better; the model of the best epoch is the one that is kept, and the
            log has the score of each. Without a score the last one is.
        stop: the aim is met, no further epoch is needed.
    """

    row: Row
    score: float | None = None
    stop: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a training stands, for whoever draws the bar; epochs and rows count from 1."""

    epoch: int
    epochs: int
    done: int
    rows: int
    loss: float


def silent(progress: Progress) -> None:
    """Show nothing."""


def fit(
    trainable: Trainable,
    *,
    epochs: int,
    batch: int,
    seed: int,
    judge: Callable[[int], Judgement] | None = None,
    patience: int | None = None,
    snapshot: Snapshot | None = None,
    snapshot_seconds: float = 60.0,
    on_step: Callable[[Progress], None] = silent,
) -> list[Row]:
    """Train for up to ``epochs`` and return the log, one row an epoch.

    Every random draw inside a step (dropout) depends on (seed, epoch, step) alone, as does the
    order of the data. So a training that is killed and started again with the same snapshot ends
    with the weights, to the bit, of one that was not (on the CPU with equal threads).

    Args:
        trainable: what is trained, in place; it ends with the weights of the best epoch.
        epochs: budget.
        batch: rows a step.
        seed: names the order of the data and the draws inside the steps.
        judge: called after each epoch (0, 1, ...) and once before the first, with -1; the model is
            in eval mode. The first one's row is number 0 of the log, its score does not count.
        patience: stop after so many epochs without a better score.
        snapshot: where to keep the state; what it holds is taken up.
        snapshot_seconds: time between two snapshots inside an epoch; each epoch's end is kept.
        on_step: told after every step how far the training is.

    Raises:
        FloatingPointError: the loss is not finite; the last good state stays in the snapshot.
    """
    checks.at_least("epochs", epochs, 1)
    checks.at_least("batch", batch, 1)
    run = _Run()
    saved = snapshot.load() if snapshot else None
    if saved is not None:
        trainable.load_state_dict(saved.pop("trainable"))
        for name, value in saved.pop("meter").items():
            setattr(trainable.meter, name, value)
        run = _Run(**saved)
    loop = _Loop(trainable, run, epochs, batch, seed, snapshot, snapshot_seconds, on_step)
    if saved is None and judge is not None:
        judgement = loop.judged(judge, -1)
        run.log.append({"round": 0.0, **judgement.row, **cost_of(trainable.meter)})
        run.stopped = judgement.stop
    while run.epoch < epochs and not run.stopped:
        loop.epoch()
        judgement = loop.judged(judge, run.epoch) if judge else Judgement({})
        run.close(judgement, trainable, patience)
        loop.save()
    if run.best is not None:
        trainable.model.load_state_dict(run.best)
    trainable.model.eval()
    return run.log


@dataclass
class _Loop:
    """The steps of one epoch, with the clock and the snapshots."""

    trainable: Trainable
    run: "_Run"
    epochs: int
    batch: int
    seed: int
    snapshot: Snapshot | None
    snapshot_seconds: float
    on_step: Callable[[Progress], None]

    def __post_init__(self) -> None:
        device = device_of(self.trainable.model)
        self._devices = [device] if device.type == "cuda" else []
        self._ticked = self._saved = time.monotonic()

    def epoch(self) -> None:
        """Take the rest of the steps of the epoch in which the run stands."""
        run, model = self.run, self.trainable.model
        if run.step == 0:
            run.rows = self.trainable.begin(run.epoch)
        order = torch.randperm(run.rows, generator=generator(self.seed, "order", run.epoch))
        parts = order.split(self.batch)
        model.train()
        for rows in parts[run.step :]:
            # Layers draw from torch's global state: lend them a named one, give theirs back.
            with torch.random.fork_rng(self._devices):
                torch.manual_seed(derive(self.seed, "step", run.epoch, run.step))
                position = (run.epoch + run.step / len(parts)) / self.epochs
                loss = self.trainable.step(rows, position)
            if not math.isfinite(loss):
                where = f"epoch {run.epoch + 1}, step {run.step + 1}"
                raise FloatingPointError(f"loss={loss} in {where}: expected finite; lower the lr")
            run.step += 1
            run.loss += loss * len(rows)
            done = min(run.step * self.batch, run.rows)
            self._tick()
            self.on_step(Progress(run.epoch + 1, self.epochs, done, run.rows, run.loss / done))
            if time.monotonic() - self._saved >= self.snapshot_seconds:
                self.save()
        model.eval()

    def judged(self, judge: Callable[[int], Judgement], epoch: int) -> Judgement:
        self.trainable.model.eval()
        judgement = judge(epoch)
        self._tick()
        return judgement

    def save(self) -> None:
        if self.snapshot is not None:
            meter = self.trainable.meter.as_dict()
            state = {"trainable": self.trainable.state_dict(), "meter": meter}
            self.snapshot.save({**vars(self.run), **state})
        self._saved = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        self.trainable.meter.seconds += now - self._ticked
        self._ticked = now


def cost_of(meter: Meter) -> Row:
    """The columns of a log row that say what was spent so far."""
    return {name: float(value) for name, value in meter.as_dict().items()}


@dataclass
class _Run:
    """Where a run stands; everything in it goes into the snapshot."""

    epoch: int = 0
    step: int = 0
    rows: int = 0
    loss: float = 0.0
    log: list[Row] = field(default_factory=list)
    best: Mapping[str, Tensor] | None = None
    best_score: float | None = None
    best_epoch: int = 0
    stopped: bool = False

    def close(self, judgement: Judgement, trainable: Trainable, patience: int | None) -> None:
        row = {"round": float(self.epoch + 1), "loss": self.loss / max(self.rows, 1)}
        score = judgement.score
        scored = {} if score is None else {"score": score}
        self.log.append({**row, **judgement.row, **scored, **cost_of(trainable.meter)})
        if score is not None and (self.best_score is None or score > self.best_score):
            state = trainable.model.state_dict()
            self.best = {name: tensor.detach().clone() for name, tensor in state.items()}
            self.best_score, self.best_epoch = score, self.epoch
        tired = patience is not None and self.epoch - self.best_epoch >= patience
        self.stopped = judgement.stop or tired
        self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0


BatchLoss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def cross_entropy(meter: Meter) -> BatchLoss:
    """Plain training: the mean cross-entropy of a batch. Cost: one pass each way an image."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        meter.forward += len(x)
        meter.backward += len(x)
        return F.cross_entropy(model(x), y)

    return loss


def constant(position: float) -> float:
    """Keep the learning rate."""
    return 1.0


def cosine(position: float) -> float:
    """Lower the learning rate from its full value to zero along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * position))


Optimize = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam (arXiv:1412.6980) with its usual betas."""
    return torch.optim.Adam(parameters, lr=lr)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum, as networks are fine-tuned.

    Args:
        momentum: share of the last step that is taken again, in [0, 1].
        weight_decay: weight of half the squared norm of all parameters, at least 0.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        checks.in_range("momentum", self.momentum, 0, 1)
        checks.in_range("weight_decay", self.weight_decay, 0)

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        decay, momentum = self.weight_decay, self.momentum
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)


def clipped(optimize: Optimize, norm: float) -> Optimize:
    """An optimizer that cuts the gradient of all weights to a norm, right before each step."""

    def made(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        kept = list(parameters)
        optimizer = optimize(kept, lr)

        def cut(optimizer: torch.optim.Optimizer, *rest: Any) -> None:
            torch.nn.utils.clip_grad_norm_(kept, norm)

        optimizer.register_step_pre_hook(cut)
        return optimizer

    return made


SCHEDULES: Mapping[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


class Supervised:
    """Learn labels from images by descent along the gradient of a loss.

    Args:
        model: trained in place.
        images: what it learns from; row i of an epoch is image i.
        loss: ``loss(model, x, y, rows)`` of a batch, a scalar; it counts its own passes.
        lr: learning rate.
        schedule: factor on the learning rate at a position in [0, 1) of the training.
        meter: where the cost is counted.
        optimize: makes the optimizer of the parameters and the learning rate.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        *,
        loss: BatchLoss,
        lr: float,
        meter: Meter,
        schedule: Callable[[float], float] = constant,
        optimize: Optimize = adam,
    ) -> None:
        checks.in_range("lr", lr, 0)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            advice = "call model.requires_grad_(True)"
            raise ValueError(f"model without a parameter that may change: expected one; {advice}")
        self.model = laid_out(model)
        self.images, self.loss, self.meter = images, loss, meter
        self._lr, self._schedule = lr, schedule
        self._device = device_of(model)
        self._optimizer = optimize(model.parameters(), lr)

    def begin(self, epoch: int) -> int:
        return len(self.images)

    def step(self, rows: Tensor, position: float) -> float:
        x, y = (part.to(self._device) for part in self.images.batch(rows))
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * self._schedule(position)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model, x, y, rows)
        loss.backward()
        self._optimizer.step()
        self.meter.images += len(rows)
        return loss.item()

    def state_dict(self) -> Tree:
        return {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Tree) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
