"""Run a recipe of scans: many models, healthy and sick; thresholds on some, measured on fresh ones.

Every model and every look at one is kept in the run folder as soon as it is done.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from bezoar import audit, checkpoints, checks, experiments, planted, recipes
from bezoar.backdoors import measure, sifted, triggered
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.defence import few
from bezoar.detection import roc
from bezoar.files import read_json, write_json
from bezoar.fit import Progress, silent
from bezoar.reproduce.sized import Sets, network, told
from bezoar.results import Rate
from bezoar.runs import Run
from bezoar.scans import DATA_SCANS, DataScan, Finding, ModelScan
from bezoar.training import Training
from bezoar.triggers import AllToOne, Trigger, poison


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything an experiment uses.

    Args:
        calibrate: models of each kind, healthy and sick, that thresholds are set on.
        fresh: models of each kind that are measured with them.
        spc: trusted images of each class that a scan may see.
        train, test: first images of the splits; 0 is all.
        alarms: share of healthy models that a threshold may accuse.
        network: fields of the networks instead of those of the subject.
        caps: what a setting of that name may be at most, in any training or scan.
    """

    calibrate: int = 10
    fresh: int = 32
    spc: int = 10
    train: int = 0
    test: int = 1000
    alarms: float = 0.1
    network: dict[str, Any] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A data set, and the networks on it.

    Args:
        data: name of the data set.
        network: name and fields.
        training: settings of ``Training``.
    """

    data: str
    network: str
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A backdoor; sick models take turns at them.

    Args:
        name: in the table.
        trigger: name and settings.
        rate: share of the training images that is poisoned.
    """

    name: str
    trigger: dict[str, Any]
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Look:
    """A scan.

    Args:
        name: in the table.
        scan: name and settings, of a scan of models or of data.
    """

    name: str
    scan: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole experiment with scans as data.

    Args:
        format: of the recipe, 1.
        name: of the results file.
        about: printed above the table.
        sizes: tables of ``Size``.
        subject: tables of ``Subject``.
        plant: tables of ``Plant``.
        look: tables of ``Look``.
    """

    format: int
    name: str
    about: list[str]
    sizes: dict[str, dict[str, Any]]
    subject: list[dict[str, Any]]
    plant: list[dict[str, Any]]
    look: list[dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """One of the models: the number is its seed, and says what it is for."""

    subject: Subject
    plant: Plant | None
    number: int

    @property
    def name(self) -> str:
        return f"{self.plant.name if self.plant else 'clean'}-{self.number}"


class Reproduction:
    """A recipe of scans at one size, in one run folder.

    Args:
        recipe: as ``read`` gives it.
        size: one of its sizes.
        out: the run folder.
        notes: provenance, see ``runs.provenance``.
        root: where the data sets are.
        only: data sets to work on in this process; all if empty.
        seeds: numbers of models to work on, of both kinds; all if empty.
        say: told a line when something is done.
        on_step: told how far a training or a scan is.
    """

    def __init__(
        self,
        recipe: Recipe,
        size: str,
        out: Path,
        notes: dict[str, str],
        *,
        root: Path | None = None,
        only: Sequence[str] = (),
        seeds: Sequence[int] = (),
        say: Callable[[str], None] = lambda line: None,
        on_step: Callable[[Progress], None] = silent,
    ) -> None:
        checks.known("size", size, recipe.sizes)
        self.size: Size = recipes.build(Size, recipe.sizes[size], f"sizes.{size}")
        for name in ("calibrate", "fresh"):
            checks.at_least(name, getattr(self.size, name), 1)
        checks.in_range("alarms", self.size.alarms, 0, 1)
        if conformal([0.0] * self.size.calibrate, self.size.alarms) == math.inf:
            found = f"calibrate={self.size.calibrate} for alarms={self.size.alarms}"
            raise ValueError(f"{found}: expected more healthy models; see conformal")
        self.recipe, self._say, self._on_step, self._notes = recipe, say, on_step, notes
        self._subjects = [_subject(table, self.size) for table in recipe.subject]
        self._plants: list[Plant] = [recipes.build(Plant, table, "plant") for table in recipe.plant]
        for plant in self._plants:
            recipes.method(Trigger, plant.trigger, f"plant {plant.name}")
        self._looks: list[Look] = [recipes.build(Look, table, "look") for table in recipe.look]
        self._scans = {look.name: _scan(look, self.size) for look in self._looks}
        for name in only:
            checks.known("data", name, [subject.data for subject in self._subjects])
        count = self.size.calibrate + self.size.fresh
        for seed in seeds:
            checks.known("seed", str(seed), map(str, range(count)))
        self._complete = not only and not seeds
        self._only = set(only or (subject.data for subject in self._subjects))
        self._seeds = set(seeds or range(count))
        self._sets = Sets(root, train=self.size.train, test=self.size.test)
        about = {"title": recipe.name, "recipe": vars(recipe), "size": size}
        self._run = Run(out, about, notes)

    def __call__(self) -> dict[str, Any] | None:
        """Do what is not done yet; return the results, or nothing where it is only a part."""
        for subject in self._subjects:
            for model in self._models(subject):
                if subject.data in self._only and model.number in self._seeds:
                    self._looked(model)
        return self.table() if self._complete else None

    def table(self) -> dict[str, Any]:
        """The results of what is done by now; models that are not are named under ``missing``.

        Raises:
            ValueError: nothing is done.
        """
        table: list[audit.Row] = []
        missing: list[str] = []
        for subject in self._subjects:
            done: list[tuple[Model, dict[str, Any]]] = []
            for model in self._models(subject):
                path = self._path(model, "json")
                if path.exists():
                    done.append((model, read_json(path)))
                    fresh = model.number >= self.size.calibrate
                    table += done[-1][1]["rows"] if fresh else []
                else:
                    missing.append(f"{subject.data} {model.name}")
            names = {name: None for _, found in done for name in found["scores"]}
            for name in names:
                scores = [(model, found["scores"][name]) for model, found in done]
                table += self._measured(f"{subject.data} {name}", scores)
            for look in self._looks:
                if not isinstance(self._scans[look.name], SIFTS):
                    table += self._said(f"{subject.data} {look.name}", look.name, done)
        if not table:
            raise ValueError(f"{self._run.path}: expected measured models, found none")
        results = audit.results(self._notes, table, {})
        results["about"] = [*self.recipe.about, f"size: {told(self.size)}"]
        return {**results, "missing": missing} if missing else results

    def figures(self) -> dict[str, Figure]:
        """Pictures that stand on the page, by file name: none."""
        return {}

    # ---------------------------------------------------------------- what is done, and where

    def _models(self, subject: Subject) -> Iterator[Model]:
        """Healthy and sick ones, those that thresholds are set on first."""
        for number in range(self.size.calibrate + self.size.fresh):
            yield Model(subject, None, number)
            yield Model(subject, self._plants[number % len(self._plants)], number)

    def _path(self, model: Model, suffix: str) -> Path:
        return self._run.path / model.subject.data / f"{model.name}.{suffix}"

    def _data(self, subject: Subject) -> DataSet:
        return self._sets[subject.data]

    def _target(self, model: Model) -> int:
        """Another class from model to model: one that a scan always suspects is right once."""
        return (7 * model.number) % len(self._data(model.subject).classes)

    def _trained(self, model: Model) -> nn.Module:
        """The model, trained now or read from its file."""
        path, whole = self._path(model, "safetensors"), self._data(model.subject)
        kind, own = recipes.network(model.subject.network)
        training: Training = recipes.build(Training, model.subject.training, "training")
        settings: dict[str, Any] = {"seed": model.number, "on_step": self._on_step}
        if model.plant is None:
            experiments.trained(path, kind, whole, training, fields=own, **settings)
        else:
            trigger: Trigger = recipes.method(Trigger, model.plant.trigger, model.plant.name)
            aim = AllToOne(self._target(model))
            rate = model.plant.rate
            planted.plant(
                path, kind, whole, training, trigger, aim, rate=rate, network=own, **settings
            )
        return checkpoints.load(path).model

    def _looked(self, model: Model) -> None:
        """Train a model, show it to every scan, keep what they say."""
        place = self._path(model, "json")
        if place.exists():
            return
        network, whole = self._trained(model), self._data(model.subject)
        table: list[audit.Row] = []
        suspects, rows = whole.train, np.empty(0, dtype=np.int64)
        if model.plant is not None:
            secret = planted.read(self._path(model, "safetensors"))
            rate = model.plant.rate
            made = poison(whole.train, secret.trigger, secret.aim, rate=rate, seed=model.number)
            suspects, rows = made.images, made.rows
            shown = triggered(whole.test, secret.trigger, secret.aim)
            facts = measure(network, whole.test, shown)
            case = f"{model.subject.data} {model.plant.name}"
            table.append(audit.rate_row(case, model.number, "clean", facts.accuracy))
            table.append(audit.rate_row(case, model.number, "asr", facts.asr))
        trusted = few(whole.train, self.size.spc, seed=model.number, held=0).train
        scores: dict[str, float] = {}
        accused: dict[str, bool] = {}
        first: dict[str, int] = {}
        for name, scan in self._scans.items():
            more: Any = {"seed": model.number, "on_step": self._on_step}
            if isinstance(scan, SIFTS):
                table += self._sifted(model, name, scan, network, suspects, rows)
            else:
                found: Finding = scan(network, trusted, **more)
                scores[name], accused[name] = found.score, found.accused
                if found.classes is not None:
                    first[name] = int(found.classes.argmax())
                if found.p_value is not None:
                    scores[f"{name} p-value"] = -math.log10(max(found.p_value, 1e-300))
                told = f"score {found.score:.2f}, p {found.p_value}"
                self._say(f"{model.subject.data} {model.name}: {name}: {told}")
        write_json(place, {"rows": table, "scores": scores, "accused": accused, "first": first})

    def _sifted(
        self,
        model: Model,
        name: str,
        scan: Any,
        network: nn.Module,
        suspects: ImageSet,
        rows: NDArray[np.int64],
    ) -> list[audit.Row]:
        """How well a scan of data tells the poison of a sick model; the false alarms of a clean."""
        whole, seed = self._data(model.subject), model.number
        trusted = whole.validation.at_most(self.size.test)
        attack = model.plant.name if model.plant else "clean"
        found = scan(network, suspects, trusted, seed=seed, on_step=self._on_step)
        told = sifted(found, rows)
        case = f"{model.subject.data} {name} {attack}"
        table = []
        if told.caught is not None:
            table.append(audit.rate_row(case, seed, "caught", told.caught))
        if told.alarms is not None:
            table.append(audit.rate_row(case, seed, "false-positives", told.alarms))
        if told.auc is not None:
            ends = {"low": told.auc.low, "high": told.auc.high, "n": len(rows)}
            table.append({**audit.number_row(case, seed, "auc:rows", told.auc.value), **ends})
        self._say(f"{case}, {seed}: caught {told.caught}, false positives {told.alarms}")
        return table

    def _said(
        self, case: str, look: str, done: Sequence[tuple[Model, dict[str, Any]]]
    ) -> list[audit.Row]:
        """Whom a scan accuses by its own threshold, and how often the target comes first."""
        fresh = [(model, found) for model, found in done if model.number >= self.size.calibrate]
        healthy = [found["accused"][look] for model, found in fresh if model.plant is None]
        sick = [found["accused"][look] for model, found in fresh if model.plant is not None]
        named = [
            found["first"][look] == self._target(model)
            for model, found in fresh
            if model.plant is not None and look in found["first"]
        ]
        told = {"false-alarms:own": healthy, "hits:own": sick, "named": named}
        return [
            audit.rate_row(case, 0, metric, Rate(sum(cases), len(cases)))
            for metric, cases in told.items()
            if cases
        ]

    def _measured(self, case: str, scores: Sequence[tuple[Model, float]]) -> list[audit.Row]:
        """What a scan of models is worth, with a threshold that the fresh ones have no part in."""
        first = self.size.calibrate
        clean = [s for m, s in scores if m.plant is None and m.number < first]
        fresh = [s for m, s in scores if m.plant is None and m.number >= first]
        kinds: dict[str, list[float]] = {}
        for model, score in scores:
            if model.plant is not None and model.number >= first:
                kinds.setdefault(model.plant.name, []).append(score)
        if not clean or not fresh or not kinds:
            return []
        threshold = conformal(clean, self.size.alarms)
        table = [audit.number_row(case, 0, "threshold", threshold)]
        alarms = Rate(sum(score > threshold for score in fresh), len(fresh))
        table.append(audit.rate_row(case, 0, "false-alarms", alarms))
        groups = {"": [s for own in kinds.values() for s in own], **kinds}
        for name, sick in groups.items():
            end = f":{name}" if name else ""
            hits = Rate(sum(score > threshold for score in sick), len(sick))
            table.append(audit.rate_row(case, 0, f"hits{end}", hits))
            curve = roc(torch.tensor(fresh), torch.tensor(sick))
            ends = {"low": curve.low, "high": curve.high, "n": len(sick)}
            table.append({**audit.number_row(case, 0, f"auc{end}", curve.auc), **ends})
        return table


SIFTS = tuple(DATA_SCANS.values())


def conformal(clean: Sequence[float], alarms: float) -> float:
    r"""A threshold that a further healthy model passes with at most some probability.

    The :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest of the scores of n healthy models,
    whatever their distribution; infinite where n is too small for it.

    >>> conformal([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 0.1), conformal([1.0], 0.1)
    (9.0, inf)
    """
    place = math.ceil(round((len(clean) + 1) * (1 - alarms), 9))
    return math.inf if place > len(clean) else sorted(clean)[place - 1]


def _subject(table: Mapping[str, Any], size: Size) -> Subject:
    subject: Subject = recipes.build(Subject, table, "subject")
    training = recipes.capped(subject.training, size.caps)
    recipes.build(Training, training, f"subject {subject.data}.training")
    return replace(subject, network=network(subject.network, size.network), training=training)


def _scan(look: Look, size: Size) -> Any:
    kind = DataScan if look.scan.get("name") in DATA_SCANS else ModelScan
    made = recipes.method(kind, look.scan, f"look {look.name}")
    caps = {name: cap for name, cap in size.caps.items() if hasattr(made, name)}
    return replace(made, **{name: min(getattr(made, name), cap) for name, cap in caps.items()})
