"""Run a recipe of guards: networks, guards before them, every attacker by what he knows, one table.

Models and measurements are kept in the run folder as soon as they are done, so a reproduction may
be killed and started again.
"""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from bezoar import audit, checkpoints, latency, making, models, recipes
from bezoar.certificates import certify
from bezoar.data.imageset import DataSet
from bezoar.detection import detect
from bezoar.files import read_json, write_json
from bezoar.guards import Guard
from bezoar.matrix import Access, Look, referee, rescored, rows
from bezoar.referee import Measurement
from bezoar.report import tables
from bezoar.report.figures import Pixels, pictures
from bezoar.reproduce.order import Order
from bezoar.reproduce.plans.guards import Case, Measure, Recipe, Subject, plan
from bezoar.reproduce.sized import Sets, beside, kept, told, unpublished
from bezoar.runs import FileSnapshot
from bezoar.sanity import Warning
from bezoar.training import Training

SHOWN = 4  # images of a gallery
RADII = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the certified accuracy, in L2


class Reproduction:
    """A recipe of guards at one size, in one run folder.

    Args:
        recipe: as ``read`` gives it.
        size: one of its sizes.
        order: what to do of it here.
    """

    def __init__(self, recipe: Recipe, size: str, order: Order) -> None:
        self._plan = plan(recipe, size)
        self.size, self.recipe, self._order = self._plan.size, recipe, order
        self._known = [self._name(subject, case) for subject, case in self._plan.pairs()]
        order.require("case", self._known, [self.size.seed])
        self._only = set(order.only or self._known)
        self._sets = Sets(order.root, train=self.size.train, validation=self.size.validation)
        self._models = dict[Path, nn.Module]()
        self._run = order.run(recipe, size)

    def __call__(self) -> dict[str, Any] | None:
        """Do what is not done yet; return the results, or nothing where it is only a part."""
        mine = [pair for pair in self._plan.pairs() if self._name(*pair) in self._only]
        for subject, case in mine:
            self._work(subject, case)
        for subject, case in mine:  # one after the other, so that all find the same machine
            self._timed(subject, case)
        return self.table() if self._only == set(self._known) else None

    def table(self) -> dict[str, Any]:
        """The results of what is done by now; cases that are not are named under ``missing``.

        Raises:
            ValueError: nothing is done.
        """
        table: list[audit.Row] = []
        old, lent = unpublished(self._order.earlier), set[str]()
        found: dict[str, list[Warning]] = {}
        missing: list[str] = []
        for pair in self._plan.pairs():
            name = self._name(*pair)
            if self._cell(*pair).exists():
                table += self._done(*pair, found, missing)
            elif rows := [row for row in old if row["case"] == name]:
                table += rows
                lent.add(name)
            else:
                missing.append(name)
        if not found:
            raise ValueError(f"{self._run.path}: expected measured cases, found none")
        for file, command in self.recipe.beside.items():
            path = self._order.results / f"{file}.json"
            if path.exists():
                table += [dict(row) for row in tables.validate(read_json(path))]
            else:
                missing.append(f"{path}, by `{command}`")
        results = audit.results(self._order.notes, beside(table, self.recipe.published), found)
        results["about"] = [*self.recipe.about, f"size: {told(self.size)}"]
        results["figures"] = {
            file: f"{self._name(*pair)}: original, attacked, purified"
            for file, pair in self._purified().items()
        }
        if lent and self._order.earlier is not None:
            results["kept"] = kept(self._order.earlier, lent)
            results["warnings"] += [w for w in self._order.earlier["warnings"] if w["case"] in lent]
        return {**results, "missing": missing} if missing else results

    def _done(
        self, subject: Subject, case: Case, found: dict[str, list[Warning]], missing: list[str]
    ) -> list[audit.Row]:
        """The rows of a case that is measured; its warnings go to ``found``."""
        name, cell = self._name(subject, case), read_json(self._cell(subject, case))
        told = [Warning(**warning) for warning in cell["warnings"]]
        found.setdefault(name, []).extend(told)
        timed = self._cell(subject, case, "latency")
        if not timed.exists():
            missing.append(f"{name}, latency")
        rows: list[audit.Row] = cell["rows"] + (read_json(timed)["rows"] if timed.exists() else [])
        return rows

    def figures(self) -> dict[str, Figure]:
        """Original, attacked and purified images of each data set, by file name."""
        return {file: pictures(self._gallery(*pair)) for file, pair in self._purified().items()}

    # ---------------------------------------------------------------- what is done, and where

    def _name(self, subject: Subject, case: Case) -> str:
        return f"{subject.data} {case.name}"

    def _folder(self, subject: Subject) -> Path:
        return self._run.path / subject.data

    def _cell(self, subject: Subject, case: Case, what: str = "cell") -> Path:
        return self._folder(subject) / f"{case.name.replace(' ', '-')}-{what}.json"

    def _file(self, subject: Subject, case: Case) -> Path:
        """The guarded network of a case."""
        return self._folder(subject) / f"{case.name.replace(' ', '-')}.safetensors"

    def _data(self, subject: Subject) -> DataSet:
        return self._sets[subject.data]

    def _network(self, subject: Subject, text: str, file: str) -> nn.Module:
        """One of the networks of a data set, trained now or read from its file, once."""
        path = self._folder(subject) / f"{file}.safetensors"
        if path in self._models:
            return self._models[path]
        path.parent.mkdir(parents=True, exist_ok=True)
        kind, own = recipes.network(text)
        settings = recipes.capped(subject.training, self.size.caps)
        training: Training = recipes.build(Training, settings, "training")
        there = path.exists()
        log = making.trained(
            path,
            kind,
            self._data(subject),
            training,
            seed=self.size.seed,
            fields=own,
            on_step=self._order.on_step,
        )
        if not there:
            best = max(row["clean"] for row in log)
            self._order.say(f"{subject.data} {text}: validation accuracy {best:.4f}")
        return self._models.setdefault(path, checkpoints.load(path).model)

    def _model(self, subject: Subject, case: Case) -> nn.Module:
        """The guarded network of a case, made now or read from its file, once."""
        path = self._file(subject, case)
        if path in self._models:
            return self._models[path]
        network = self._network(subject, subject.network, "network")
        if not case.guard:
            return network
        guard: Guard = recipes.method(Guard, case.guard, case.name)
        there = path.exists()
        log = making.guarded(
            path,
            network,
            self._data(subject),
            guard,
            seed=self.size.seed,
            on_step=self._order.on_step,
        )
        if not there:
            self._order.say(f"{self._name(subject, case)}: validation clean {log[-1]['clean']:.4f}")
        return self._models.setdefault(path, checkpoints.load(path).model)

    def _work(self, subject: Subject, case: Case) -> None:
        path = self._cell(subject, case)
        if path.exists():
            return
        model, name = self._model(subject, case), self._name(subject, case)
        found: dict[str, Measurement] = {}
        for measure in self._plan.asked(case):
            for access in measure.access:
                one = self._measured(subject, case, model, measure, access)
                if one is not None:
                    found[one.stamp.metric] = one
                    self._order.say(f"{name}: {one.stamp.metric} {one.facts.robust_accuracy}")
        table = rows(name, self.size.seed, found)
        if isinstance(model, models.Smoothed):
            table += self._certified(name, subject, model)
        if self.recipe.detected and hasattr(model, "score"):
            table += self._detected(name, subject, case, model)
        white = [m for m in found.values() if m.stamp.access == "white-box"]
        test = self._data(subject).test
        told = [warning.as_dict() for warning in audit.suspicions(model, test, white)]
        write_json(path, {"rows": table, "warnings": told})
        self._counted(name).clear()

    def _measured(
        self, subject: Subject, case: Case, model: nn.Module, measure: Measure, access: Access
    ) -> Measurement | None:
        look = Look(recipes.attack(measure.attack), access, case.draws)
        count = getattr(self.size, measure.images)
        most = case.known if access in ("adaptive", "bpda") else case.most
        images = self._data(subject).test.at_most(min(count, most) if most else count)
        other = None
        if access == "transfer":
            other = self._network(subject, subject.other, "other")
        judge = referee(look, model, images, seed=self.size.seed, other=other)
        if judge is None:
            return None
        # The first that there is: none is trained for this alone.
        there = (
            one for of, one in self._plan.pairs() if of is subject and self._file(of, one).exists()
        )
        first = next(there, case)
        if access in ("greybox", "transfer") and case.guard and case != first:
            # Who does not know the guard makes the same images, whatever it is before his network.
            made = self._measured(subject, first, self._model(subject, first), measure, access)
            same = made is not None and made.stamp.made_on == judge.stamp.made_on
            if made is not None and same and len(made.facts) >= len(images):
                return rescored(judge, model, images, made)
        return self._run.measure(self._name(subject, case).replace(" ", "-"), judge)

    def _timed(self, subject: Subject, case: Case) -> None:
        path = self._cell(subject, case, "latency")
        if path.exists():
            return
        x, _ = self._data(subject).test.batch(slice(64))
        name, seed = self._name(subject, case), self.size.seed
        found = latency.rows(name, latency.latency(self._model(subject, case), x), seed=seed)
        write_json(path, {"rows": found})

    def _detected(
        self, name: str, subject: Subject, case: Case, model: nn.Module
    ) -> list[audit.Row]:
        images = self._data(subject).test.at_most(min(self.size.few, case.known or self.size.few))
        attack, seed = recipes.attack(self.recipe.detected), self.size.seed
        found = audit.detected(detect(attack, model, images, seed=seed), attack, model, seed=seed)
        return [{**row, "case": name} for row in found if row["metric"] != "clean"]

    def _purified(self) -> dict[str, tuple[Subject, Case]]:
        """The first guard that purifies of each data set, by the name of its picture."""
        found: dict[str, tuple[Subject, Case]] = {}
        for subject, case in self._plan.pairs():
            file = f"{self.recipe.name}-{subject.data}.png"
            if file in found or not case.guard or not self._cell(subject, case).exists():
                continue
            if isinstance(self._model(subject, case), models.Purified):
                found[file] = subject, case
        return found

    def _gallery(self, subject: Subject, case: Case) -> list[list[tuple[Pixels, str]]]:
        """Rows of pictures: the first image of some classes, and what the network says of each.

        Attacked by who ignores the guard, with the measurements of the table.
        """
        model: Any = self._model(subject, case)
        test = self._data(subject).test
        labels = test.labels[: self.size.few].tolist()
        chosen = torch.tensor(sorted({labels.index(label) for label in labels})[:SHOWN])
        x, _ = test.batch(chosen)
        sets = [("original", x)]
        for measure in self._plan.asked(case):
            if "greybox" in measure.access:
                made = self._measured(subject, case, model, measure, "greybox")
                if made is not None:
                    x_adv = torch.from_numpy(made.x_adv)[chosen]
                    sets.append((made.stamp.metric.removeprefix("greybox:"), x_adv))
        rows = []
        with torch.no_grad():
            columns = [
                pair
                for name, images in sets
                for pair in ((name, images), (f"{name}, purified", model.purifier(images)))
            ]
            said = [model.network(images).argmax(dim=1) for _, images in columns]
        for k in range(len(chosen)):
            row = [
                (images[k].numpy(), f"{name}\n{test.classes[int(classes[k])]}")
                for (name, images), classes in zip(columns, said, strict=True)
            ]
            rows.append(row)
        return rows

    def _counted(self, name: str) -> FileSnapshot:
        """Where the draws of a certificate are kept until its case is done."""
        return self._run.snapshot(f"{name.replace(' ', '-')}-certify")

    def _certified(self, name: str, subject: Subject, model: models.Smoothed) -> list[audit.Row]:
        images = self._data(subject).test.at_most(self.size.certified)
        found = certify(
            model,
            images,
            n=self.size.samples,
            seed=self.size.seed,
            snapshot=self._counted(name),
        )
        rates = {f"certified@{radius:g}": found.accuracy(radius) for radius in RADII}
        for radius, rate in zip(RADII, rates.values(), strict=True):
            self._order.say(f"{name}: certified at L2 {radius:g} {rate}")
        rates["abstained"] = found.abstained
        return [audit.rate_row(name, self.size.seed, key, rate) for key, rate in rates.items()]
