"""Run a recipe of backdoors: victims, repairs by what the defender has, one table.

Every victim, repaired network and cell is kept in the run folder as soon as it is done, so a
reproduction may be killed and started again, and several processes may share it with ``only``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from bezoar import audit, checkpoints, checks, cures, making, planted, recipes
from bezoar.backdoors import Facts, Triggered, measure, triggered
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.defence import clean_accuracy
from bezoar.files import read_json, write_json
from bezoar.planted import Backdoor
from bezoar.repairs import Repair
from bezoar.report.figures import perturbation, pictures
from bezoar.reproduce.order import Order
from bezoar.reproduce.plans.backdoors import Cell, Pair, Recipe, Subject, Victim, plan
from bezoar.reproduce.sized import Sets, beside, kept, told, unpublished
from bezoar.training import Training
from bezoar.triggers import AllToOne, Fitted, Trigger

SHOWN = 4  # images of a gallery


@dataclass(frozen=True, eq=False)
class Patient:
    """A sick network under repair, and what all its cells share.

    Attributes:
        model: the network.
        secret: what its attacker knows.
        shown: the stamped test images.
        before: what the network says of them and of clean ones.
        suspects: what it was trained on, see ``cures.poisoned``.
    """

    model: nn.Module
    secret: Backdoor
    shown: Triggered
    before: Facts
    suspects: ImageSet | None


class Reproduction:
    """A recipe of backdoors at one size, in one run folder.

    Args:
        recipe: as ``read`` gives it.
        size: one of its sizes.
        order: what to do of it here. With the earlier rows of any victim of a data set its clean
            control stays too; what a victim's own control does stands in its rows ``healthy``.
    """

    def __init__(self, recipe: Recipe, size: str, order: Order) -> None:
        self._plan = plan(recipe, size)
        self.size, self.recipe, self._order = self._plan.size, recipe, order
        repairs: dict[str, set[str]] = {}
        for victim in self._plan.victims():
            own = repairs.setdefault(victim.name, {victim.name})
            own |= {cell.repair for cell in self._plan.cells(victim)}
        every = {victim.seed for victim in self._plan.victims()}
        self._only, self._seeds = set(order.only or repairs), set(order.seeds or every)
        self._attacks = [" ".join(name.split(" ")[:2]) for name in self._only]
        replace(order, only=self._attacks).require("attack", repairs, every)
        for name, attack in zip(self._only, self._attacks, strict=True):
            checks.known("repair", name, repairs[attack])
        self._sets = Sets(order.root, train=self.size.train, test=self.size.test)
        self._run = order.run(recipe, size)

    def __call__(self) -> dict[str, Any] | None:
        """Do what is not done yet; return the results, or nothing where it is only a part.

        All victims come first: whether the backdoors took is known before hours of repairs. These
        go draw by draw: who stops early has compared all of them on the first.
        """
        mine = [
            victim
            for victim in self._plan.victims()
            if victim.name in self._attacks and victim.seed in self._seeds
        ]
        for victim in mine:
            self._plant(victim)
        for sample, victim in product(range(self.size.samples), mine):
            cells = [cell for cell in self._plan.cells(victim) if cell.sample == sample]
            asked = [cell for cell in cells if {cell.repair, victim.name} & self._only]
            todo = [cell for cell in asked if not self._cell(cell).exists()]
            if todo:
                patient = self._patient(victim)
                for cell in todo:
                    self._cured(cell, patient)
        return self.table() if self._order.complete else None

    def table(self) -> dict[str, Any]:
        """The results of what is done by now; ``missing`` names victims and repairs that are not.

        Raises:
            ValueError: nothing is done.
        """
        table, missing, lent = self._found(unpublished(self._order.earlier))
        if not table:
            raise ValueError(f"{self._run.path}: expected measured cells, found none")
        sets = [subject.data for subject in self._plan.subjects]
        table += _averages(sets, self.recipe.average, table)
        for pair in self._plan.pairs:
            table += _gains(pair, table)
        results = audit.results(self._order.notes, beside(table, self.recipe.published), {})
        results["about"] = [*self.recipe.about, f"size: {told(self.size)}"]
        results["figures"] = {file: f"{one.name}: trigger" for file, one in self._shown().items()}
        if lent and self._order.earlier is not None:
            results["figures"] = {**self._order.earlier["figures"], **results["figures"]}
            results["kept"] = kept(self._order.earlier, {victim.told for victim in lent})
        return {**results, "missing": missing} if missing else results

    def _found(
        self, earlier: Sequence[audit.Row]
    ) -> tuple[list[audit.Row], list[str], list[Victim]]:
        """What is measured; lines about what is not; the victims of earlier rows."""
        table: list[audit.Row] = []
        missing: list[str] = []
        lent: list[Victim] = []
        done: list[tuple[Cell, bool]] = []
        for victim in self._plan.victims():
            rows = self._rows(victim)
            if not rows and (rows := _of_victim(victim, earlier)):
                lent.append(victim)
            if not rows:
                missing.append(victim.told)
                continue
            table += rows
            there = {(row["case"], row["seed"]) for row in rows}
            cells = self._plan.cells(victim)
            done += [(cell, (cell.case, cell.seed) in there) for cell in cells]
        mixed = [victim.subject for victim in lent]
        healthy = [
            row
            for subject in self._plan.subjects
            for row in self._healthy(subject, earlier if subject in mixed else ())
        ]
        return healthy + table, missing + _left(done), lent

    def _rows(self, victim: Victim) -> list[audit.Row]:
        """The rows of a victim and of what is done of its cells; none if it is not trained here."""
        sick = self._folder(victim) / "sick.json"
        if not sick.exists():
            return []
        cells = [self._cell(cell) for cell in self._plan.cells(victim)]
        places = [sick, sick.with_name("healthy.json"), *(cell for cell in cells if cell.exists())]
        return [row for place in places for row in read_json(place)["rows"]]

    def _healthy(self, subject: Subject, earlier: Sequence[audit.Row]) -> list[audit.Row]:
        """The row of the clean control: the earlier one, if there is one, else that of this run."""
        path, case = self._control(subject)[1], f"{subject.data} none none none spc0"
        rows = [row for row in earlier if row["case"] == case]
        if rows or not path.exists():
            return rows
        found: list[audit.Row] = read_json(path)["rows"]
        return found

    def figures(self) -> dict[str, Figure]:
        """Some test images with each trigger of the victims that were trained here."""
        return {file: self._stamped(victim) for file, victim in self._shown().items()}

    # ---------------------------------------------------------------- what is done, and where

    def _folder(self, victim: Victim) -> Path:
        return self._run.path / victim.subject.data / f"{victim.plant.name}-{victim.seed}"

    def _cell(self, cell: Cell) -> Path:
        name = f"{cell.cure.name}-{cell.cure.source}-spc{cell.budget}-{cell.sample}"
        return self._folder(cell.victim) / f"{name.replace(' ', '-')}.json"

    def _data(self, subject: Subject) -> DataSet:
        return self._sets[subject.data]

    # ---------------------------------------------------------------------------- sick networks

    def _control(self, subject: Subject) -> tuple[Path, Path]:
        """Model and cell of the network that is trained the same way on clean images."""
        folder = self._run.path / subject.data
        return folder / "clean.safetensors", folder / "clean.json"

    def _clean(self, subject: Subject) -> nn.Module:
        """The clean control; the attacker fits his trigger on it where that is asked for."""
        path, cell = self._control(subject)
        whole, (kind, own) = self._data(subject), recipes.network(subject.network)
        training: Training = recipes.build(Training, subject.training, "training")
        making.trained(path, kind, whole, training, seed=0, fields=own, on_step=self._order.on_step)
        model = checkpoints.load(path).model
        if not cell.exists():
            right = clean_accuracy(model, whole.test)
            case = f"{subject.data} none none none spc0"
            write_json(cell, {"rows": [audit.rate_row(case, 0, "clean", right)]})
            self._order.say(f"{case}: clean {right}")
        return model

    def _plant(self, victim: Victim) -> None:
        """Train a victim and measure it, if that is not done."""
        subject, plant, folder = victim.subject, victim.plant, self._folder(victim)
        cell, clean = folder / "sick.json", self._clean(subject)
        if cell.exists() and (folder / "healthy.json").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        trigger: Trigger = recipes.method(Trigger, plant.trigger, plant.name)
        kind, own = recipes.network(subject.network)
        planted.plant(
            folder / "sick.safetensors",
            kind,
            self._data(subject),
            recipes.build(Training, subject.training, "training"),
            trigger,
            AllToOne(subject.target),
            rate=plant.rate,
            seed=victim.seed,
            network=own,
            clean=clean if isinstance(trigger, Fitted) else None,
            on_step=self._order.on_step,
        )
        patient = self._patient(victim)
        # What stamps do to the image itself: no repair can be expected to do better.
        healthy = measure(clean, self._data(subject).test, patient.shown)
        rows = cures.rows(f"{victim.name} healthy none spc0", victim.row, healthy)
        write_json(folder / "healthy.json", {"rows": rows})
        facts, case = patient.before, f"{victim.name} none none spc0"
        write_json(cell, {"rows": cures.rows(case, victim.row, facts)})
        self._order.say(f"{case}, seed {victim.row}: clean {facts.accuracy}, asr {facts.asr}")

    def _patient(self, victim: Victim) -> Patient:
        """A victim from its file; what all its cells of a draw share is made here.

        Once a draw: to keep it all is a poisoned training set in memory for each victim.
        """
        path, whole = self._folder(victim) / "sick.safetensors", self._data(victim.subject)
        model, secret = checkpoints.load(path).model, planted.read(path)
        shown = triggered(whole.test, secret.trigger, secret.aim)
        before = measure(model, whole.test, shown)
        return Patient(model, secret, shown, before, cures.poisoned(whole, secret))

    # ------------------------------------------------------------------------- repaired networks

    def _cured(self, cell: Cell, sick: Patient) -> None:
        place, data = self._cell(cell), cell.victim.subject.data
        repair: Repair = recipes.method(Repair, cell.cure.repair, cell.cure.name)
        whole = self._sets[data]
        given = cures.evidence(whole, sick.secret, sick.suspects, cell.budget, seed=cell.seed)
        snapshot = self._run.snapshot(f"{data}-{place.parent.name}-{place.stem}")
        done = repair(
            sick.model, given, seed=cell.seed, snapshot=snapshot, on_step=self._order.on_step
        )
        after = measure(done.classifier, whole.test, sick.shown)
        cost = done.cost.as_dict()
        found = cures.rows(cell.case, cell.seed, after, before=sick.before, cost=cost)
        write_json(place, {"rows": found, "log": done.log, "repair": repr(repair)})
        snapshot.clear()
        told = f"clean {after.accuracy}, asr {after.asr}, ra {after.ra}"
        self._order.say(f"{cell.case}, seed {cell.seed}: {told}, {cost['seconds']:.0f} s")

    # ---------------------------------------------------------------------------------- pictures

    def _shown(self) -> dict[str, Victim]:
        """One victim of each backdoor, by the name of its picture."""
        found: dict[str, Victim] = {}
        for victim in self._plan.victims():
            if (self._folder(victim) / "sick.json").exists():
                found.setdefault(f"{self.recipe.name}-{victim.name.replace(' ', '-')}.png", victim)
        return found

    def _stamped(self, victim: Victim) -> Figure:
        """Test images, the same with the trigger, and what is changed in them."""
        x, _ = self._data(victim.subject).test.batch(slice(SHOWN))
        trigger = planted.read(self._folder(victim) / "sick.safetensors").trigger
        pairs = [*zip(x.numpy(), trigger.stamp(x).numpy(), strict=True)]
        changes = [perturbation(*pair) for pair in pairs]
        return pictures(
            [
                [(image, "clean") for image, _ in pairs],
                [(image, victim.plant.name) for _, image in pairs],
                [(change, f"change x{factor:.3g}") for change, factor in changes],
            ]
        )


def _left(done: Sequence[tuple[Cell, bool]]) -> list[str]:
    """Which repairs are not done everywhere: a line each, by how many draws there are."""
    cases: dict[str, dict[str, dict[int, list[bool]]]] = {}
    for cell, there in done:
        repair = f"{cell.victim.subject.data} {cell.cure.name} {cell.cure.source}"
        budgets = cases.setdefault(repair, {}).setdefault(cell.victim.plant.name, {})
        budgets.setdefault(cell.budget, []).append(there)
    lines = []
    for repair, attacks in cases.items():
        places: dict[str, list[str]] = {}
        for attack, budgets in attacks.items():
            far = {f"{attack} spc{n}": (sum(own), len(own)) for n, own in budgets.items()}
            if len(set(far.values())) == 1:  # as far with all budgets
                far = {attack: far.popitem()[1]}
            for place, (count, total) in far.items():
                if count < total:
                    places.setdefault(f"{count} of {total}", []).append(place)
        told = [f"{how} draws of {', '.join(where)}" for how, where in places.items()]
        lines += [f"{repair}: {'; '.join(told)}"] if told else []
    return lines


def _of_victim(victim: Victim, table: Sequence[audit.Row]) -> list[audit.Row]:
    """The rows of a victim and its cells; what is computed from several is not among them."""
    own = [row for row in table if row["case"].startswith(f"{victim.name} ")]
    return [
        row
        for row in own
        if row["seed"] // 10 == victim.seed and not row["metric"].startswith("gain:")
    ]


def _averages(
    sets: Sequence[str], attacks: Sequence[str], table: Sequence[audit.Row]
) -> list[audit.Row]:
    """Means over some backdoors, for each data set, repair and draw for which there are all."""
    values: dict[tuple[str, int, str], list[float]] = {}
    for data, attack, row in product(sets, attacks, table):
        start = f"{data} {attack} "
        if row["case"].startswith(start):
            named = f"{data} average {row['case'].removeprefix(start)}"
            values.setdefault((named, row["seed"], row["metric"]), []).append(row["value"])
    return [
        audit.number_row(*place, math.fsum(own) / len(own))
        for place, own in values.items()
        if len(own) == len(attacks)
    ]


def _gains(pair: Pair, table: Sequence[audit.Row]) -> list[audit.Row]:
    """What the first of two repairs has over the second, cell by cell."""
    values = {(row["case"], row["seed"], row["metric"]): row for row in table}
    found = []
    for (case, seed, metric), row in values.items():
        before, side, after = case.partition(f" {pair.first} ")
        if not side or metric not in ("clean", "ra", "asr"):
            continue
        other = values.get((f"{before} {pair.second} {after}", seed, metric))
        if other is not None:
            # The source stands once: that of the first.
            named = f"{before} {pair.name} {pair.first.split()[-1]} {after}"
            gain = row["value"] - other["value"]
            size = {"n": row["n"]} if "n" in row else {}
            found.append({**audit.number_row(named, seed, f"gain:{metric}", gain), **size})
    return found
