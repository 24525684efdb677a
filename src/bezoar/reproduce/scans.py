"""Run a recipe of scans: many models, healthy and sick; thresholds on some, measured on fresh ones.

Every model and every look at one is kept in the run folder as soon as it is done.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from bezoar import audit, checkpoints, making, planted, recipes, suspicion
from bezoar.backdoors import Sifted, measure, sifted, triggered
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.defence import Evidence, clean_accuracy, few
from bezoar.detection import Curve, judged, roc
from bezoar.files import read_json, write_json
from bezoar.planted import Backdoor
from bezoar.reproduce.order import Order
from bezoar.reproduce.plans.scans import (
    SIFTS,
    WATCHES,
    Look,
    Model,
    Recipe,
    Subject,
    conformal,
    plan,
)
from bezoar.reproduce.sized import Sets, told
from bezoar.results import Rate
from bezoar.scans import Finding
from bezoar.training import Training
from bezoar.triggers import AllToOne, Trigger, poison

SECTIONS = {
    "Poison among training images": ["caught", "false-positives", "auc:rows"],
    "Triggered images, one at a time": ["fpr:clean", "tpr:triggered", "auc:triggered"],
    "Models": ["threshold", "false-alarms", "hits", "auc", "named"],
}


@dataclass(frozen=True, eq=False)
class Suspect:
    """A model under scan, and what the scan is not told of it.

    Attributes:
        model: which it is.
        network: the trained network.
        images: what it was trained on.
        poison: positions of the poisoned ones among them, ``(P,)`` int64.
        secret: what its attacker knows; nothing of a healthy one.
    """

    model: Model
    network: nn.Module
    images: ImageSet
    poison: NDArray[np.int64]
    secret: Backdoor | None


class Reproduction:
    """A recipe of scans at one size, in one run folder.

    Args:
        recipe: as ``read`` gives it.
        size: one of its sizes.
        order: what to do of it here.
    """

    def __init__(self, recipe: Recipe, size: str, order: Order) -> None:
        self._plan = plan(recipe, size)
        self.size, self.recipe, self._order = self._plan.size, recipe, order
        known = [subject.data for subject in self._plan.subjects]
        order.require("data", known, self._plan.numbers)
        self._only = set(order.only or known)
        self._seeds = set(order.seeds or self._plan.numbers)
        self._sets = Sets(order.root, train=self.size.train, test=self.size.test)
        self._run = order.run(recipe, size)

    def __call__(self) -> dict[str, Any] | None:
        """Do what is not done yet; return the results, or nothing where it is only a part."""
        for subject in self._plan.subjects:
            for model in self._plan.models(subject):
                if subject.data in self._only and model.number in self._seeds:
                    self._looked(model)
        return self.table() if self._order.complete else None

    def table(self) -> dict[str, Any]:
        """The results of what is done by now; models that are not are named under ``missing``.

        Raises:
            ValueError: nothing is done.
        """
        table: list[audit.Row] = []
        missing: list[str] = []
        for subject in self._plan.subjects:
            models = [*self._plan.models(subject)]
            for model in models:
                facts = self._path(model, ".json")
                if self._plan.fresh(model) and facts.exists():
                    table += read_json(facts)["rows"]
            for look in self._plan.looks:
                cells = [(model, self._cell(model, look)) for model in models]
                table += self._told(subject, look, [c for c in cells if c[1].exists()])
            for model in models:
                left = [one.name for one in self._plan.looks if not self._cell(model, one).exists()]
                if left:
                    what = "" if len(left) == len(self._plan.looks) else f", {', '.join(left)}"
                    missing.append(f"{subject.data} {model.name}{what}")
        if not table:
            raise ValueError(f"{self._run.path}: expected measured models, found none")
        results = audit.results(self._order.notes, table, {})
        results["about"] = [*self.recipe.about, f"size: {told(self.size)}"]
        results["sections"] = SECTIONS
        return {**results, "missing": missing} if missing else results

    def figures(self) -> dict[str, Figure]:
        """Pictures that stand on the page, by file name: none."""
        return {}

    # ---------------------------------------------------------------- what is done, and where

    def _path(self, model: Model, end: str) -> Path:
        return self._run.path / model.subject.data / f"{model.name}{end}"

    def _cell(self, model: Model, look: Look) -> Path:
        return self._path(model, f"-{look.name}.json")

    def _data(self, subject: Subject) -> DataSet:
        return self._sets[subject.data]

    def _target(self, model: Model) -> int:
        """Another class from model to model: one that a scan always suspects is right once."""
        return (7 * model.number) % len(self._data(model.subject).classes)

    def _trained(self, model: Model) -> nn.Module:
        """The model, trained now or read from its file."""
        path, whole = self._path(model, ".safetensors"), self._data(model.subject)
        kind, own = recipes.network(model.subject.network)
        training: Training = recipes.build(Training, model.subject.training, "training")
        settings: dict[str, Any] = {"seed": model.number, "on_step": self._order.on_step}
        if model.plant is None:
            making.trained(path, kind, whole, training, fields=own, **settings)
        else:
            trigger: Trigger = recipes.method(Trigger, model.plant.trigger, model.plant.name)
            aim = AllToOne(self._target(model))
            rate = model.plant.rate
            planted.plant(
                path, kind, whole, training, trigger, aim, rate=rate, network=own, **settings
            )
        return checkpoints.load(path).model

    def _looked(self, model: Model) -> None:
        """Train a model, show it to every scan that has not seen it, keep what they say."""
        todo = [look for look in self._plan.looks if not self._cell(model, look).exists()]
        if not todo and self._path(model, ".json").exists():
            return
        suspect = self._suspect(model)
        for look in todo:
            said = self._said(look, suspect)
            write_json(self._cell(model, look), said)
            words = [] if said["score"] is None else [f"score {said['score']:.2f}"]
            words += ["accused"] if said["accused"] else []
            words += [f"{row['metric']} {row['value']:.3f}" for row in said["rows"]]
            self._order.say(f"{model.subject.data} {model.name}: {look.name}: {', '.join(words)}")

    def _suspect(self, model: Model) -> Suspect:
        """Train a model and measure it; poison its images once more if it is a sick one."""
        network, whole = self._trained(model), self._data(model.subject)
        secret, train, rows = None, whole.train, np.empty(0, dtype=np.int64)
        if model.plant is not None:
            secret, rate = planted.read(self._path(model, ".safetensors")), model.plant.rate
            made = poison(train, secret.trigger, secret.aim, rate=rate, seed=model.number)
            train, rows = made.images, made.rows
        place = self._path(model, ".json")
        if not place.exists():
            if secret is None:
                rates = {"clean": clean_accuracy(network, whole.test)}
            else:
                shown = triggered(whole.test, secret.trigger, secret.aim)
                facts = measure(network, whole.test, shown)
                rates = {"clean": facts.accuracy, "asr": facts.asr}
            case = f"{model.subject.data} {model.plant.name if model.plant else 'clean'}"
            write_json(place, {"rows": _rates(case, model.number, rates)})
            told = ", ".join(f"{name} {rate}" for name, rate in rates.items())
            self._order.say(f"{case}, seed {model.number}: {told}")
        return Suspect(model, network, train, rows, secret)

    def _said(self, look: Look, suspect: Suspect) -> dict[str, Any]:
        """What a scan says of a model, as it is kept; a guard says nothing of the model."""
        scan, whole = self._plan.scans[look.name], self._data(suspect.model.subject)
        more: Any = {"seed": suspect.model.number, "on_step": self._order.on_step}
        trusted = few(whole.train, self.size.spc, seed=suspect.model.number, held=0).train
        known = whole.validation.at_most(self.size.test)
        rows: list[audit.Row] = []
        if isinstance(scan, WATCHES):
            guarded = scan(suspect.network, Evidence(trusted, known), **more).classifier
            rows = self._watched(look, suspect, guarded)
            return {"score": None, "p_value": None, "accused": None, "first": None, "rows": rows}
        if isinstance(scan, SIFTS):
            found: Finding = scan(suspect.network, suspect.images, known, **more)
            rows = self._sifted(suspect.model, look, sifted(found, suspect.poison))
        else:
            found = scan(suspect.network, trusted, **more)
        return {
            "score": found.score,
            "p_value": found.p_value,
            "accused": found.accused,
            "first": None if found.classes is None else int(found.classes.argmax()),
            "rows": rows,
        }

    def _watched(self, look: Look, suspect: Suspect, guarded: nn.Module) -> list[audit.Row]:
        """What a guard rejects of test images, and of stamped ones where there is a trigger."""
        model = suspect.model
        test = self._data(model.subject).test.at_most(self.size.watched)
        case = f"{model.subject.data} {look.name} {model.plant.name if model.plant else 'clean'}"
        if suspect.secret is None:
            x, _ = test.batch(slice(None))
            alarms = judged(guarded, x, test, seed=model.number).alarms
            return [audit.rate_row(case, model.number, "fpr:clean", alarms)]
        shown = triggered(test, suspect.secret.trigger, suspect.secret.aim)
        seen = suspicion.measure(guarded, test, shown, seed=model.number)
        rates = {"fpr:clean": seen.clean.alarms, "tpr:triggered": seen.caught()}
        table = _rates(case, model.number, rates)
        if (curve := seen.curve()) is not None:
            table.append(_area(case, model.number, "auc:triggered", curve))
        return table

    def _sifted(self, model: Model, look: Look, told: Sifted) -> list[audit.Row]:
        """How well a scan of data tells the poison of a sick model; the false alarms of a clean."""
        attack = model.plant.name if model.plant else "clean"
        case, seed = f"{model.subject.data} {look.name} {attack}", model.number
        rates = {"caught": told.caught, "false-positives": told.alarms}
        table = _rates(case, seed, rates)
        if told.auc is not None and told.caught is not None:
            ends, n = (told.auc.low, told.auc.high), told.caught.total
            table.append(audit.estimate_row(case, seed, "auc:rows", told.auc.value, ends, n))
        return table

    def _told(
        self, subject: Subject, look: Look, cells: Sequence[tuple[Model, Path]]
    ) -> list[audit.Row]:
        """The rows of a scan, from what it said of each model."""
        said = [(model, read_json(path)) for model, path in cells]
        fresh = [(model, found) for model, found in said if self._plan.fresh(model)]
        table = [row for _, found in fresh for row in found["rows"]]
        if isinstance(self._plan.scans[look.name], WATCHES):
            return table
        case = f"{subject.data} {look.name}"
        table += self._measured(case, [(model, found["score"]) for model, found in said])
        if said and all(found["p_value"] is not None for _, found in said):
            scores = [(m, -math.log10(max(found["p_value"], 1e-300))) for m, found in said]
            table += self._measured(f"{case} p-value", scores)
        sick = [(model, found) for model, found in fresh if model.plant is not None]
        counted = {
            "false-alarms:own": [found["accused"] for model, found in fresh if not model.plant],
            "hits:own": [found["accused"] for _, found in sick],
            "named": [
                found["first"] == self._target(model)
                for model, found in sick
                if found["first"] is not None
            ],
        }
        rates = {name: Rate(sum(own), len(own)) if own else None for name, own in counted.items()}
        return table + _rates(case, 0, rates)

    def _measured(self, case: str, scores: Sequence[tuple[Model, float]]) -> list[audit.Row]:
        """What a scan of models is worth, with a threshold that the fresh ones have no part in."""
        clean = [s for m, s in scores if m.plant is None and not self._plan.fresh(m)]
        fresh = [s for m, s in scores if m.plant is None and self._plan.fresh(m)]
        kinds: dict[str, list[float]] = {}
        for model, score in scores:
            if model.plant is not None and self._plan.fresh(model):
                kinds.setdefault(model.plant.name, []).append(score)
        if len(clean) < self.size.calibrate or not fresh or not kinds:
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
            table.append(_area(case, 0, f"auc{end}", curve))
        return table


def _rates(case: str, seed: int, rates: Mapping[str, Rate | None]) -> list[audit.Row]:
    """The rows of the rates that there are."""
    return [
        audit.rate_row(case, seed, name, rate) for name, rate in rates.items() if rate is not None
    ]


def _area(case: str, seed: int, metric: str, curve: Curve) -> audit.Row:
    ends = (curve.low, curve.high)
    return audit.estimate_row(case, seed, metric, curve.auc, ends, curve.attacked)
