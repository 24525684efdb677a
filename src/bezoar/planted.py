"""A backdoored model file, and beside it what its attacker knows: trigger, aim, poisoned rows.

NAME.safetensors                    the model, a classifier like any other
NAME.backdoor.safetensors           the secret: who tests a repair needs it, a defender has it not
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import making, recipes, trees
from bezoar.attacks.protocol import Learnt
from bezoar.classifier import weights_hash
from bezoar.data.imageset import DataSet
from bezoar.fit import BatchLoss, Progress, Row, silent
from bezoar.runs import FileSnapshot
from bezoar.training import Training
from bezoar.triggers import (
    TRIGGERS,
    Aim,
    AllToAll,
    AllToOne,
    Fitted,
    Trigger,
    planting,
    poison,
)
from bezoar.triggers.poison import require_fit

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Backdoor:
    """What the attacker knows of a model.

    Attributes:
        trigger: what opens the backdoor, fitted where it had to be.
        aim: the classes that triggered images are to get.
        rows: positions in the training split of the images that were poisoned, ``(P,)`` int64;
            none of a trigger that works inside the training loop, where it is other ones each time.
        covers: positions of those that look triggered and kept their label, ``(Q,)`` int64.
        about: trigger, aim, rate and seed as JSON values.
    """

    trigger: Trigger
    aim: Aim
    rows: NDArray[np.int64]
    covers: NDArray[np.int64]
    about: Mapping[str, Any]


def beside(path: Path) -> Path:
    """Where the backdoor of a model file is described."""
    return path.with_name(f"{path.stem}.backdoor.safetensors")


def plant(
    path: Path,
    kind: str,
    data: DataSet,
    training: Training,
    trigger: Trigger,
    aim: Aim,
    *,
    rate: float,
    seed: int,
    network: Mapping[str, Any] | None = None,
    clean: nn.Module | None = None,
    on_step: Callable[[Progress], None] = silent,
) -> list[Row]:
    """Train one of the built-in networks on poison, and keep the model and its backdoor.

    The best epoch is chosen on clean validation images, as by a victim who trains on what he was
    given. Goes on where it was interrupted, as ``making.trained`` does.

    Args:
        path: the model file to write; see ``beside`` for the other one.
        kind: name of the network.
        data: train is poisoned, validation is not.
        training: how it learns.
        trigger: what is put on images; fitted here where it has to be.
        aim: the classes that triggered images are to get.
        rate: share of the training images that is poisoned.
        seed: names all randomness.
        network: further arguments of the network.
        clean: a classifier without a backdoor, for a trigger that has to be fitted on one.
        on_step: told how far the fit of a trigger is, and then the training.

    Raises:
        ValueError: a trigger, aim or rate that does not fit the data, one that has to be fitted and
            no ``clean``, or files that hold something else.
    """
    about: dict[str, Any] = {
        "trigger": _stated(trigger),
        "target": aim.target if isinstance(aim, AllToOne) else "next",
        "rate": rate,
        "seed": seed,
    }
    if isinstance(trigger, Fitted) and trigger.learnt is None:
        if clean is None:
            expected = "expected a clean classifier to fit it on; train one first"
            raise ValueError(f"{trigger!r}: {expected}")
        about["fitted on"] = weights_hash(clean)
    where = beside(path)
    known = read(path) if where.exists() else None
    if known is not None and known.about != about:
        raise ValueError(f"{where} describes another backdoor: {known.about}; choose another --out")
    ready = trigger if known is None else known.trigger
    unfinished = FileSnapshot(path.with_name(f"{path.stem}.fit.safetensors"), about)
    if known is None and isinstance(trigger, Fitted) and clean is not None:
        wanted = _target(aim, trigger)
        fitted = trigger.fit(
            clean, data.train, target=wanted, seed=seed, snapshot=unfinished, on_step=on_step
        )
        ready = cast(Trigger, fitted)

    around: Callable[[BatchLoss], BatchLoss] | None = None
    rows = covers = np.empty(0, dtype=np.int64)
    train = data.train
    if ready.in_loop:
        require_fit(train, ready, aim)

        def around(loss: BatchLoss) -> BatchLoss:
            return planting(ready, aim, rate=rate, classes=len(data.classes), loss=loss)

        around(lambda model, x, y, rows: x.sum())  # refuses a rate that is none, before anything
    else:
        made = poison(train, ready, aim, rate=rate, seed=seed)
        train, rows, covers = made.images, made.rows, made.covers
    if known is None:
        _write(where, ready, rows, covers, about)
    unfinished.clear()
    return making.trained(
        path,
        kind,
        replace(data, train=train),
        training,
        seed=seed,
        fields=network,
        around=around,
        notes={"backdoor": about},
        on_step=on_step,
    )


def read(path: Path) -> Backdoor:
    """Read what the attacker knows of a model file.

    Raises:
        FileNotFoundError: nothing is known of it.
        ValueError: the description is damaged.
    """
    where = beside(path)
    if not where.is_file():
        raise FileNotFoundError(f"{where}: no such file; `bezoar backdoor plant` writes it")
    match trees.load(where):
        case {
            "format": int(version),
            "about": {"trigger": dict(stated), "target": int() | "next" as target} as about,
            "rows": Tensor() as rows,
            "covers": Tensor() as covers,
            "learnt": None | dict() as kept,
        } if version == FORMAT and _positions(rows) and _positions(covers):
            try:
                trigger = recipes.method(Trigger, stated, "trigger")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if kept is not None:
                trigger = replace(trigger, learnt=_learnt(where, kept))
            aim = AllToAll() if target == "next" else AllToOne(target)
            return Backdoor(trigger, aim, rows.numpy(), covers.numpy(), about)
    raise ValueError(f"{where}: expected the description of a backdoor; plant it again")


def _write(
    path: Path,
    trigger: Trigger,
    rows: NDArray[np.int64],
    covers: NDArray[np.int64],
    about: Mapping[str, Any],
) -> None:
    learnt = trigger.learnt if isinstance(trigger, Fitted) else None
    kept = None if learnt is None else learnt.tree()
    columns = {"rows": torch.from_numpy(rows), "covers": torch.from_numpy(covers)}
    trees.save(path, {"format": FORMAT, "about": dict(about), **columns, "learnt": kept})


def _stated(trigger: Trigger) -> dict[str, Any]:
    """Name and settings of a trigger, as ``recipes.method`` takes them."""
    names = {kind: name for name, kind in TRIGGERS.items()}
    if type(trigger) not in names:
        raise ValueError(f"{trigger!r}: expected one of {', '.join(TRIGGERS)}")
    known = recipes.settable(type(trigger))
    return {"name": names[type(trigger)], **{name: getattr(trigger, name) for name in known}}


def _target(aim: Aim, trigger: Trigger) -> int:
    if not isinstance(aim, AllToOne):
        raise ValueError(f"{aim!r}: expected one target class, for which {trigger!r} is fitted")
    return aim.target


def _positions(column: Tensor) -> bool:
    plain = column.dtype == torch.int64 and column.ndim == 1
    return plain and bool((column >= 0).all()) and bool((column.diff() > 0).all())


def _learnt(path: Path, kept: dict[str, Any]) -> Learnt:
    found = Learnt.of(kept)
    if found is None:
        raise ValueError(f"{path}: expected what a trigger has learnt; plant it again")
    return found
