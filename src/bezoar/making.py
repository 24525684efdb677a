"""Model files that are made here: a network that is trained, a guard in front of one.

The same call goes on where an interrupted one stopped, and leaves a file that it wrote itself.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from bezoar import checkpoints, checks, models
from bezoar.classifier import weights_hash
from bezoar.data.imageset import DataSet, digest
from bezoar.defence import Evidence
from bezoar.fit import BatchLoss, Progress, Row, silent
from bezoar.guards import Guard
from bezoar.runs import FileSnapshot
from bezoar.training import Training, adopt


def trained(
    path: Path,
    kind: str,
    data: DataSet,
    training: Training,
    *,
    seed: int,
    fields: Mapping[str, Any] | None = None,
    init: Path | None = None,
    freeze: Sequence[str] = (),
    around: Callable[[BatchLoss], BatchLoss] | None = None,
    notes: Mapping[str, Any] | None = None,
    on_step: Callable[[Progress], None] = silent,
) -> list[Row]:
    """Train one of the built-in networks and keep it, with its log, in a model file.

    While it is not done, its state lies beside the file; the same call goes on from there. A file
    that this very training wrote is left as it is.

    Args:
        path: the file to write.
        kind: name of the network.
        data: train and validation are seen.
        training: how it learns.
        seed: names all randomness.
        fields: further arguments of the network.
        init: a model file of the same kind; its weights are taken over where they fit, see
            ``training.adopt``. What was not is in the record of the file, ``not taken over``.
        freeze: parts that do not learn, see ``training.held``.
        around: makes the loss that is trained on of the plain one.
        notes: what else the record of the file is to say, and tells this training from others.
        on_step: told how far the training is.

    Raises:
        ValueError: the file is there and holds something else, an unknown kind, or an ``init`` or
            ``freeze`` that does not fit it.
    """
    checks.known("network", kind, models.MODELS)
    sizes: dict[str, Any] = {"shape": data.shape, "classes": len(data.classes)}
    model = models.create(kind, **sizes, seed=seed, **(fields or {}))
    about = {
        "kind": kind,
        "data": data.name,
        "images": len(data.train),
        "hash": digest(data.train, data.validation),
        "method": repr(training),
        "seed": seed,
        **({"fields": dict(fields)} if fields else {}),
        **({"init": _adopted(model, kind, init)} if init else {}),
        **({"freeze": list(freeze)} if freeze else {}),
        **(notes or {}),
    }
    if path.exists():
        return _log_of(path, about)
    snapshot = _beside(path, about)
    log, _ = training(
        model,
        data.train,
        data.validation,
        seed=seed,
        freeze=freeze,
        around=around,
        snapshot=snapshot,
        on_step=on_step,
    )
    checkpoints.save(path, model, classes=data.classes, training={**about, "log": log})
    snapshot.clear()
    return log


def _adopted(model: nn.Module, kind: str, init: Path) -> dict[str, Any]:
    """Start a network from a model file; what the record says of it."""
    source = checkpoints.load(init)
    if source.kind != kind:
        raise ValueError(f"{init}: holds {source.kind}: expected {kind}, which is to be trained")
    try:
        rest = adopt(model, source.model)
    except ValueError as error:
        raise ValueError(f"{init}: {error}") from error
    return {"hash": weights_hash(source.model), "not taken over": rest}


def guarded(
    path: Path,
    model: nn.Module,
    data: DataSet,
    guard: Guard,
    *,
    seed: int,
    on_step: Callable[[Progress], None] = silent,
) -> list[Row]:
    """Put a guard in front of a model and keep both, with the guard's log, in one model file.

    Goes on where it was interrupted, and leaves a file that it wrote itself, as ``trained`` does.

    Args:
        path: the file to write.
        model: one of ``models.MODELS``, or what another guard gave.
        data: the guard sees train and validation.
        guard: the method.
        seed: names all randomness.
        on_step: told how far the training is.

    Raises:
        ValueError: the file is there and holds something else.
    """
    about = {
        "guard": repr(guard),
        "network": weights_hash(model),
        "data": data.name,
        "images": len(data.train),
        "hash": digest(data.train, data.validation),
        "seed": seed,
    }
    if path.exists():
        return _log_of(path, about)
    snapshot = _beside(path, about)
    evidence = Evidence(data.train, data.validation)
    made = guard(model, evidence, seed=seed, snapshot=snapshot, on_step=on_step)
    record = {**about, "log": made.log, "cost": made.cost.as_dict()}
    checkpoints.save(path, made.classifier, classes=data.classes, training=record)
    snapshot.clear()
    return made.log


def _beside(path: Path, about: dict[str, Any]) -> FileSnapshot:
    """Where the state of the training of a model file is kept while it is not done."""
    return FileSnapshot(path.with_name(f"{path.stem}.training.safetensors"), about)


def moved_guard(guard: Path, network: Path, out: Path) -> None:
    """Write a model file with the purifier of ``guard`` in front of the model of ``network``.

    Raises:
        ValueError: the first has no guard, the two are for other images, or ``out`` is there.
    """
    first, second = checkpoints.load(guard), checkpoints.load(network)
    if not isinstance(first.model, models.Purified):
        expected = "expected a model that `bezoar guard fit` wrote, with a purifier of its own"
        raise ValueError(f"{guard}: {first.kind}: {expected}")
    if first.shape != second.shape:
        shapes = f"images of shape {first.shape} and of {second.shape}"
        raise ValueError(f"{guard} and {network}: {shapes}: expected the same")
    if out.exists():
        raise ValueError(f"{out} is there already; choose another --out")
    made = models.Purified(purifier=first.model.purifier, network=second.model)
    record = {"guard": first.training.get("guard"), "moved from": weights_hash(first.model)}
    checkpoints.save(out, made, classes=second.classes, training=record)


def _log_of(path: Path, about: dict[str, Any]) -> list[Row]:
    """The log in a model file, if the file is of this very training."""
    record = dict(checkpoints.header(path).training)
    log = cast(list[Row], record.pop("log", None))
    record.pop("cost", None)
    if record != about:
        raise ValueError(f"{path} holds another model: {record}; choose another --out")
    return log
