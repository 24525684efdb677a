"""A run folder as the report reads it; every file is a stranger's until checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bezoar.costs import Latency
from bezoar.files import read_json
from bezoar.report import tables
from bezoar.results import Facts

FORMAT = 1
CASES = ("before", "after")

Pixels = NDArray[np.float32]

# What a column may hold, by the kind of its dtype.
_KINDS = {"clean_loss": "f", "loss": "f", "distance": "f", "zero_gradient": "b"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One attack on one model.

    Attributes:
        case: ``before`` or ``after``.
        metric: what it is called in the result table.
        stamp: recipe, norm, eps, weights hashes, access and so on, as the referee wrote them.
        facts: what happened to each image.
        parts: the files, each with the count of its images; the adversarial images stay in them.
    """

    case: str
    metric: str
    stamp: Mapping[str, Any]
    facts: Facts
    parts: tuple[tuple[Path, int], ...]

    @property
    def white_box(self) -> bool:
        """The attack was made on the very weights that it was scored on."""
        same = self.stamp.get("made_on") == self.stamp.get("scored_on")
        return same and self.stamp.get("access") == "white-box"

    @property
    def targeted(self) -> bool:
        """The attack led to chosen classes, and says nothing of all others."""
        return self.facts.target is not None

    @property
    def noise(self) -> bool:
        """It is the control that follows no gradient."""
        return self.stamp.get("attack") == "noise"

    @property
    def ball(self) -> tuple[str, float]:
        """Norm and radius that the attacker was held to, infinite for none."""
        eps = self.stamp["eps"]
        return str(self.stamp.get("norm")), math.inf if eps is None else float(eps)

    @property
    def free(self) -> bool:
        """The attacker was held to no ball."""
        return self.stamp["eps"] is None

    def adversarial(self, index: int) -> Pixels | None:
        """The attacked image ``(C, H, W)`` of one index; ``None`` where it was not attacked."""
        (rows,) = np.nonzero(self.facts.index == index)
        if not rows.size:
            return None
        row = int(rows[0])
        for path, count in self.parts:
            if row < count:
                return pixels(path, "x_adv", row)
            row -= count
        return None


@dataclass(frozen=True, kw_only=True)
class Clean:
    """The clean images of the run: their positions and classes; the pixels stay in the file."""

    path: Path
    index: NDArray[np.int64]
    label: NDArray[np.int64]

    def image(self, index: int) -> Pixels | None:
        """The clean image ``(C, H, W)`` of one index, float32 in [0, 1]."""
        (rows,) = np.nonzero(self.index == index)
        return pixels(self.path, "pixels", int(rows[0])) if rows.size else None


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that a run folder says.

    ``repair`` and ``clean`` are ``None``, ``latency`` is empty where it has none.
    """

    about: Mapping[str, Any]
    results: Mapping[str, Any]
    rows: list[tables.Row]
    repair: Mapping[str, Any] | None
    clean: Clean | None
    measured: tuple[Measured, ...]
    latency: tuple[Latency, ...] = ()

    def of(self, case: str) -> dict[str, Measured]:
        """The measurements of a case by metric."""
        return {found.metric: found for found in self.measured if found.case == case}

    def section(self, name: str) -> Mapping[str, Any]:
        """An object inside ``run.json``; empty where it is missing."""
        found = self.about.get(name)
        return found if isinstance(found, dict) else {}

    def class_name(self, number: int) -> str:
        """What a class is called; its number where it has no name, words where it is none."""
        if number < 0:
            return "no answer"
        names = self.section("data").get("classes")
        if isinstance(names, list) and 0 <= number < len(names):
            return str(names[number])
        return str(number)


def read(folder: Path) -> Record:
    """Read a run folder.

    Raises:
        FileNotFoundError: the folder or a file that every run has is missing.
        ValueError: a file is damaged, of another format, or holds values that cannot be. The
            file is named.
    """
    about = json_object(folder / "run.json")
    results = json_object(folder / "results.json")
    for name, found in (("run.json", about), ("results.json", results)):
        if found.get("format") != FORMAT:
            expected = f"expected {FORMAT}; use the bezoar that wrote the run"
            raise ValueError(f"{folder / name}: format={found.get('format')!r}: {expected}")
    try:
        rows = tables.validate(results)
    except ValueError as error:
        raise ValueError(f"{folder / 'results.json'}: {error}") from error
    repair, clean = folder / "repair.json", folder / "images" / "test.safetensors"
    latency = folder / "latency.json"
    return Record(
        about=about,
        results=results,
        rows=rows,
        repair=_repair(repair) if repair.exists() else None,
        clean=_clean(clean) if clean.exists() else None,
        measured=tuple(
            _measured(case, stamp)
            for case in CASES
            for stamp in sorted((folder / "measurements" / case).glob("*/stamp.json"))
        ),
        latency=_latency(latency) if latency.exists() else (),
    )


def finite(value: object) -> bool:
    """Whether a JSON value is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds {type(found).__name__}: expected a JSON object")
    return found


def _repair(path: Path) -> dict[str, Any]:
    repair = json_object(path)
    rows = repair.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: rows={rows!r:.80}: expected a list of objects, one a round")
    for row in rows:
        for name, value in row.items():
            if not finite(value):
                raise ValueError(f"{path}: {name}={value!r:.80}: expected a finite number")
        if "round" not in row:
            raise ValueError(f"{path}: row {row!r:.80}: expected a number named round")
    cost = repair.get("cost", {})
    if not isinstance(cost, dict) or not all(map(finite, cost.values())):
        raise ValueError(f"{path}: cost={cost!r:.80}: expected an object of finite numbers")
    return repair


def _latency(path: Path) -> tuple[Latency, ...]:
    listed = json_object(path).get("latency")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{path}: latency={listed!r:.80}: expected a list of objects, one a part")
    for one in listed:
        match one:
            case {
                "part": "whole" | "guard" | "classifier",
                "batch": batch,
                "seconds": [_, *_] as seconds,
                "memory": memory,
                "transfer": transfer,
                "device": str(),
                "threads": threads,
                **rest,
            } if not rest and all(map(finite, [*seconds, transfer])):
                whole = all(type(count) is int for count in (batch, memory, threads))
                if (
                    whole
                    and min(seconds) > 0
                    and min(batch - 1, threads - 1, memory, transfer) >= 0
                ):
                    continue
        raise ValueError(f"{path}: {one!r:.160}: expected a part with its times, above 0")
    found = tuple(Latency(**{**one, "seconds": tuple(one["seconds"])}) for one in listed)
    counts: dict[int, set[int]] = {}
    for each in found:
        counts.setdefault(each.batch, set()).add(each.runs)
    places = {(each.part, each.batch) for each in found}
    if len(places) < len(found) or any(len(runs) > 1 for runs in counts.values()):
        raise ValueError(f"{path}: expected each part once, and as many runs of all of a batch")
    return found


def _clean(path: Path) -> Clean:
    return Clean(path=path, **columns(path, ("index", "label")))


def _measured(case: str, path: Path) -> Measured:
    stamp = json_object(path)
    if not isinstance(stamp.get("metric"), str):
        raise ValueError(f"{path}: metric={stamp.get('metric')!r}: expected text")
    eps = stamp.get("eps", "none")
    if eps is not None and not finite(eps):
        raise ValueError(f"{path}: eps={eps!r}: expected a finite number, or null for no radius")
    files = sorted(path.parent.glob("[0-9]*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{path.parent}: found no numbered .safetensors; measure again")
    names = [field.name for field in fields(Facts) if field.name != "target" or stamp.get("target")]
    units = [Facts(**columns(file, names)) for file in files]
    try:
        facts = Facts.joined(units)
    except ValueError as error:
        raise ValueError(f"{path.parent}: {error}") from error
    parts = tuple((file, len(unit)) for file, unit in zip(files, units, strict=True))
    return Measured(case=case, metric=stamp["metric"], stamp=stamp, facts=facts, parts=parts)


def columns(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Columns ``(N,)`` of a file, one length, of the kinds that ``Facts`` says."""
    try:
        with safe_open(path, framework="numpy") as file:
            if missing := sorted(set(names) - set(file.keys())):
                raise ValueError(f"{path}: has no column {missing}: expected {sorted(names)}")
            found = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected safetensors, found {error}") from error
    for name, column in found.items():
        kinds = _KINDS.get(name, "iu")
        if column.ndim != 1 or column.dtype.kind not in kinds or not column.size:
            what = f"shape {column.shape} and dtype {column.dtype}"
            raise ValueError(f"{path}: {name} of {what}: expected (N,) of kind {kinds}")
    if len({len(column) for column in found.values()}) != 1:
        raise ValueError(f"{path}: columns of unequal lengths; measure again")
    return found


def pixels(path: Path, name: str, row: int) -> Pixels:
    """One image ``(C, H, W)`` as float32 in [0, 1], read without the others."""
    try:
        with safe_open(path, framework="numpy") as file:
            part = file.get_slice(name)
            if len(part.get_shape()) != 4 or row >= part.get_shape()[0]:
                raise ValueError(
                    f"{path}: {name} of shape {part.get_shape()}: expected (N, C, H, W)"
                )
            found = part[row : row + 1][0]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected safetensors, found {error}") from error
    image: Pixels = found.astype(np.float32) / np.float32(255 if found.dtype == np.uint8 else 1)
    if not (image.size and image.min() >= 0 and image.max() <= 1):  # also true for NaN
        raise ValueError(f"{path}: {name} of image {row}: expected values in [0, 1]")
    return image
