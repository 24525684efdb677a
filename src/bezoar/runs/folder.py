"""A run on disk: numbered batches, atomic files, resume.

RUN/run.json                        what was run: every setting, seed, versions, machine
RUN/run.toml                        the recipe as the user wrote it, where there is one
RUN/before.safetensors              the model that came in; after.safetensors: the repaired one
RUN/repair.json                     the repair's log and cost
RUN/found.safetensors               pictures that the repair came upon: a recovered trigger
RUN/backdoor.safetensors            what was said of clean and triggered images; some of these
RUN/path.json                       counts after each filter that a repair of a backdoor pruned
RUN/latency.json                    how long a guarded model and its parts take
RUN/images/test.safetensors         the clean images
RUN/fits/METRIC-WEIGHTS.safetensors what an attack learnt before it ran, on which weights
RUN/measurements/CASE/METRIC/       stamp.json and 000000.safetensors ...: facts and x_adv
RUN/certificates.safetensors        what was counted of each image of a smoothed model
RUN/certified.svg                   certified accuracy against the radius
RUN/results.json                    rates, intervals, warnings, verdicts
RUN/report.html, RUN/tables/        the same for readers
"""

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes
from torch import nn

from bezoar import checks, trees
from bezoar.attacks import Attack, Fitted
from bezoar.attacks.protocol import Learnt
from bezoar.classifier import weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.files import read_json, replacing, write_json
from bezoar.referee import Measurement, Referee, Stamp, metric_of
from bezoar.results import Facts
from bezoar.snapshots import Tree

FORMAT = 1

Arrays = dict[str, NDArray[np.generic]]


def default(verb: str, about: dict[str, Any]) -> Path:
    """The folder of an experiment that was given none: the same one for the same settings."""
    digest = blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=4).hexdigest()
    return Path("runs") / f"{verb}-{digest}"


class Run:
    """One run folder.

    Args:
        path: the folder; made if it is not there.
        about: what identifies the experiment, JSON values; a folder that holds the results of
            another experiment is refused, one of the same is taken up where it stopped.
        notes: provenance, which may differ between two sessions of one run.

    Raises:
        ValueError: the folder holds another experiment, or something else.
    """

    def __init__(self, path: Path, about: dict[str, Any], notes: dict[str, Any]) -> None:
        self.path, self.notes = path, notes
        about = json.loads(json.dumps(about, allow_nan=False))
        there = path / "run.json"
        if there.exists():
            found = read_json(there)
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise ValueError(
                    f"{there}: expected a run of format {FORMAT}; choose another folder"
                )
            for key in about:
                if found.get(key) != about[key]:
                    was, asked = _difference(found.get(key), about[key], key)
                    advice = "choose another --out, or remove the folder"
                    raise ValueError(f"{path} holds another run: {was}, not {asked}; {advice}")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path}: expected a new folder or one of bezoar's runs")
        else:
            write_json(there, {"format": FORMAT, **notes, **about})

    def snapshot(self, name: str, about: dict[str, Any] | None = None) -> "FileSnapshot":
        """Where long work of this run keeps its state."""
        return FileSnapshot(self.path / "snapshots" / f"{name}.safetensors", about)

    def keep_images(self, images: ImageSet) -> None:
        """Store the clean images that are attacked, once."""
        path = self.path / "images" / "test.safetensors"
        if not path.exists():
            label = images.labels.numpy()
            write_arrays(
                path, {"pixels": images.pixels.numpy(), "label": label, "index": images.index}
            )

    def fitted(
        self, attack: Attack, classifier: nn.Module, images: ImageSet | None, *, seed: int
    ) -> Attack:
        """The attack, fitted where it needs to be; once, and the same one ever after.

        Raises:
            ValueError: it needs images to be fitted on and there are none, or its file is damaged.
        """
        if not isinstance(attack, Fitted) or attack.learnt is not None:
            return attack
        name = f"{metric_of(attack)}-{weights_hash(classifier)}.safetensors"
        path = self.path / "fits" / name
        if not path.exists():
            if images is None:
                raise ValueError(f"{attack!r}: expected images to fit it on, found none")
            learnt = cast(Learnt, attack.fit(classifier, images, seed=seed).learnt)
            path.parent.mkdir(exist_ok=True)
            trees.save(path, learnt.tree())
        ready: Attack = replace(cast(Any, attack), learnt=_learnt(path))
        return ready

    def measure(
        self, case: str, referee: Referee, on_unit: Callable[[int, int], None] | None = None
    ) -> Measurement:
        """Do the units of a measurement that have no file yet, then read them all.

        Raises:
            ValueError: the folder holds this measurement for other weights, settings or images.
        """
        folder = self.path / "measurements" / case / referee.stamp.metric
        stamp = folder / "stamp.json"
        if stamp.exists() and read_json(stamp) != referee.stamp.as_dict():
            found, asked = _difference(read_json(stamp), referee.stamp.as_dict(), "stamp")
            raise ValueError(f"{stamp}: {found}, not {asked}; remove {folder} to measure again")
        write_json(stamp, referee.stamp.as_dict())
        for k in range(referee.units):
            path = folder / f"{k:06d}.safetensors"
            if not path.exists():
                name = f"{case}/{referee.stamp.metric}/{k:06d}"
                snapshot = self.snapshot(name, referee.stamp.as_dict())
                facts, x_adv = referee.unit(k, snapshot)
                write_arrays(path, {**facts.columns(), "x_adv": x_adv})
                snapshot.clear()
            if on_unit is not None:
                on_unit(k + 1, referee.units)
        measurement = read_measurement(folder)
        if not np.array_equal(measurement.facts.index, referee.index):
            raise ValueError(f"{folder}: holds other images; remove it to measure again")
        return measurement


class FileSnapshot:
    """The state of a training or an attack as a file; see ``snapshots.Snapshot``.

    Args:
        path: the file; it is there while the work is not done.
        about: what identifies the work, JSON values; the state of another one is refused.
    """

    def __init__(self, path: Path, about: dict[str, Any] | None = None) -> None:
        self._path = path
        self._about = json.loads(json.dumps(about or {}, allow_nan=False))

    def load(self) -> Tree | None:
        if not self._path.exists():
            return None
        tree = trees.load(self._path)
        if not isinstance(tree, dict) or set(tree) != {"about", "state"}:
            raise ValueError(
                f"{self._path}: expected the state of work that was interrupted; remove it"
            )
        if tree["about"] != self._about:
            was, asked = _difference(tree["about"], self._about, "work")
            advice = "run that again, or remove the file"
            raise ValueError(f"{self._path} is of other work: {was}, not {asked}; {advice}")
        state: Tree = tree["state"]
        return state

    def save(self, state: Tree) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        trees.save(self._path, {"about": self._about, "state": state})

    def clear(self) -> None:
        """The work is over and its result is kept elsewhere."""
        self._path.unlink(missing_ok=True)


def read_measurement(folder: Path) -> Measurement:
    """Read a measurement back, all units of it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its files are damaged or do not fit together.
    """
    stamp = _stamp(folder / "stamp.json")
    paths = sorted(folder.glob("[0-9]*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder}: expected numbered .safetensors files, found none")
    for k, path in enumerate(paths):
        if path.name != f"{k:06d}.safetensors":
            raise ValueError(f"{path}: expected {k:06d}.safetensors before it; measure again")
    units = [_unit(path) for path in paths]
    try:
        facts = Facts.joined([facts for facts, _ in units])
        x_adv = np.concatenate([x_adv for _, x_adv in units])
    except ValueError as error:
        raise ValueError(f"{folder}: files that do not fit together; {error}") from error
    return Measurement(stamp, facts, x_adv)


def _stamp(path: Path) -> Stamp:
    meta = read_json(path)
    kinds = {field.name: field.type for field in fields(Stamp)}
    needed = set(kinds) - {"target", "draws", "low"}
    if not isinstance(meta, dict) or not needed <= set(meta):
        raise ValueError(f"{path}: expected an object with {sorted(needed)}")
    kinds = {name: kind for name, kind in kinds.items() if name in meta}
    if meta["eps"] is None:  # JSON knows no infinity
        meta["eps"] = math.inf
    for name, kind in kinds.items():
        if type(meta[name]) is not kind and not (kind is float and type(meta[name]) is int):
            raise ValueError(f"{path}: {name}={meta[name]!r}: expected a {kind}")
    return Stamp(**{name: meta[name] for name in kinds})


def _unit(path: Path) -> tuple[Facts, NDArray[np.float32]]:
    """One file of a measurement, a stranger's until it is checked."""
    part: dict[str, Any] = read_arrays(path)
    columns = {field.name for field in fields(Facts)} | {"x_adv"}
    if set(part) | {"target"} != columns:
        odd = sorted((set(part) | {"target"}) ^ columns)
        raise ValueError(f"{path}: missing or unknown columns {odd}; measure again")
    x_adv = part.pop("x_adv")
    try:
        for name, column in part.items():
            if column.ndim != 1:
                raise ValueError(f"{name} of shape {column.shape}: expected (N,)")
        facts = Facts(**part)
        checks.images(torch.from_numpy(x_adv), "x_adv")
        if len(x_adv) != len(facts):
            raise ValueError(f"x_adv of shape {x_adv.shape}: expected {len(facts)} images")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; measure again") from error
    return facts, x_adv


def _learnt(path: Path) -> Learnt:
    found = Learnt.of(trees.load(path))
    if found is None:
        raise ValueError(f"{path}: expected what an attack has learnt; remove it to fit again")
    return found


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors, whole or not at all."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = safetensors_bytes(whole)
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)  # not by safetensors, whose error of a full disk is its own


def read_arrays(path: Path) -> Arrays:
    """Read named arrays; a damaged file is a ValueError that names it."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (SafetensorError, TypeError, OSError) as error:  # TypeError: a type unknown to numpy
        raise ValueError(f"{path}: expected safetensors, found {error}") from error


def _difference(found: object, asked: object, where: str) -> tuple[str, str]:
    """Name the first place where two JSON values differ, and what stands there."""
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in sorted(set(found) | set(asked)):
            if found.get(key, math.nan) != asked.get(key, math.nan):
                return _difference(found.get(key), asked.get(key), f"{where}.{key}")
    return f"{where}={found!r}", f"{asked!r}"
