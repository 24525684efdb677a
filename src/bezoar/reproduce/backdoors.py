"""Run a recipe of backdoors: victims, repairs by what the defender has, one table.

Every victim, repaired network and cell is kept in the run folder as soon as it is done, so a
reproduction may be killed and started again, and several processes may share it with ``only``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from torch import nn

from bezoar import audit, checkpoints, checks, cures, experiments, planted, recipes
from bezoar.backdoors import Facts, Triggered, measure, triggered
from bezoar.costs import Meter
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.defence import accuracy
from bezoar.files import read_json, write_json
from bezoar.planted import Backdoor
from bezoar.repairs import Repair
from bezoar.report.figures import pictures
from bezoar.reproduce.order import Order
from bezoar.reproduce.sized import Sets, beside, kept, network, told, unpublished
from bezoar.results import Rate
from bezoar.training import Training
from bezoar.triggers import AllToOne, Fitted, Trigger

SHOWN = 4  # images of a gallery


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything an experiment uses.

    Args:
        samples: draws of the defender's images for each victim.
        budgets: images of each class that he has.
        train, test: first images of the splits; 0 is all.
        network: fields of the networks instead of those of the set, for example the width.
        training: settings of the victims' trainings instead of those of the set.
        triggers: settings of a trigger instead of its own, by the name of the backdoor.
        instead: settings of a repair instead of its own, by its name, by ``DATA NAME``, or by
            ``DATA NAME spcN``; the closer one counts.
        caps: what a setting of that name may be at most, in any training or repair.
    """

    samples: int = 3
    budgets: list[int] = field(default_factory=lambda: [2, 10])
    train: int = 0
    test: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    triggers: dict[str, dict[str, Any]] = field(default_factory=dict)
    instead: dict[str, dict[str, Any]] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A data set and the network that is made sick on it.

    Args:
        data: name of the data set.
        network: name and fields.
        training: of victims and of the clean control, settings of ``Training``.
        target: class of the triggered images.
    """

    data: str
    network: str
    training: dict[str, Any] = field(default_factory=dict)
    target: int = 0


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A backdoor.

    Args:
        name: in the table.
        trigger: name and settings.
        rate: share of the training images that is poisoned.
        data: the data sets that it is planted on; all if empty.
        victims: seeds of the victims.
    """

    name: str
    trigger: dict[str, Any]
    rate: float = 0.1
    data: list[str] = field(default_factory=list)
    victims: list[int] = field(default_factory=lambda: [0])


@dataclass(frozen=True, kw_only=True)
class Cure:
    """A repair by what it has.

    Args:
        name: in the table.
        repair: name and settings.
        source: where its triggered images are from; printed in the case.
        attacks: names of the backdoors that get it; all if empty.
        data: the data sets; all if empty.
        budgets: images of each class; those of the size if empty.
    """

    name: str
    repair: dict[str, Any]
    source: Literal["none", "oracle", "recovered", "surrogate"] = "none"
    attacks: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    budgets: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two repairs of the same victims with the same images, and what one has over the other.

    Rows ``gain:clean``, ``gain:ra`` and ``gain:asr``: how much higher the first one's rates are.

    Args:
        name: in the table, in place of that of a repair.
        first, second: ``NAME SOURCE`` of repairs.
    """

    name: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole experiment with backdoors as data.

    Args:
        format: of the recipe, 1.
        name: of the results file.
        paper: what is reproduced.
        about: how it differs from the papers; printed above the table.
        published: by case, by metric, what was published; shown beside what is measured.
        sizes: tables of ``Size``.
        subject: tables of ``Subject``.
        plant: tables of ``Plant``.
        cure: tables of ``Cure``.
        pair: tables of ``Pair``.
        average: names of backdoors. Each repair has rows of an attack ``average`` too, the means
            over them, wherever all of them were repaired with that draw of images.
    """

    format: int
    name: str
    paper: str
    about: list[str]
    sizes: dict[str, dict[str, Any]]
    subject: list[dict[str, Any]]
    plant: list[dict[str, Any]]
    cure: list[dict[str, Any]]
    pair: list[dict[str, Any]] = field(default_factory=list)
    average: list[str] = field(default_factory=list)
    published: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One repair of one victim with one draw of the defender's images.

    Row ``seed`` of the table is ten times that of the victim and the number of the draw.
    """

    subject: Subject
    plant: Plant
    victim: int
    cure: Cure
    budget: int
    sample: int

    @property
    def case(self) -> str:
        named = (self.subject.data, self.plant.name, self.cure.name, self.cure.source)
        return f"{' '.join(named)} spc{self.budget}"

    @property
    def seed(self) -> int:
        return 10 * self.victim + self.sample


@dataclass(frozen=True, eq=False)
class Victim:
    """A sick network, and what all its cells share.

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
            control and its picture stay too; what a victim's own control does stands in its rows
            ``healthy``.
    """

    def __init__(self, recipe: Recipe, size: str, order: Order) -> None:
        checks.known("size", size, recipe.sizes)
        self.size: Size = recipes.build(Size, recipe.sizes[size], f"sizes.{size}")
        checks.at_least("samples", self.size.samples, 1)
        self.recipe, self._order = recipe, order
        self._subjects = [_subject(table, self.size) for table in recipe.subject]
        self._plants = [_plant(table, self.size) for table in recipe.plant]
        for name in self.size.triggers:
            checks.known("triggers", name, [plant.name for plant in self._plants])
        self._cures = [_cure(table) for table in recipe.cure]
        _require_known(self.size.instead, self._subjects, self._cures, self.size.budgets)
        for subject, cure in product(self._subjects, self._cures):
            for budget in cure.budgets or self.size.budgets:
                _sized(cure, subject.data, budget, self.size)  # refuses what is wrong in it
        self._pairs: list[Pair] = [recipes.build(Pair, table, "pair") for table in recipe.pair]
        for pair in self._pairs:
            for side in (pair.first, pair.second):
                checks.known("repair", side, [f"{one.name} {one.source}" for one in self._cures])
        for name in [*recipe.average, *(name for cure in self._cures for name in cure.attacks)]:
            checks.known("attack", name, [plant.name for plant in self._plants])
        known = [f"{s.data} {p.name}" for s, p, _ in self._victims()]
        for name in order.only:
            checks.known("attack", name, known)
        every = sorted({victim for _, _, victim in self._victims()})
        for seed in order.seeds:
            checks.known("seed", str(seed), map(str, every))
        self._only, self._seeds = set(order.only or known), set(order.seeds or every)
        self._sets = Sets(order.root, train=self.size.train, test=self.size.test)
        self._run = order.run(recipe, size)

    def __call__(self) -> dict[str, Any] | None:
        """Do what is not done yet; return the results, or nothing where it is only a part.

        All victims come first: whether the backdoors took is known before hours of repairs.
        """
        mine = [
            (subject, plant, victim)
            for subject, plant, victim in self._victims()
            if f"{subject.data} {plant.name}" in self._only and victim in self._seeds
        ]
        for one in mine:
            self._plant(*one)
        for one in mine:
            todo = [cell for cell in self._cells(*one) if not self._cell(cell).exists()]
            if todo:
                sick = self._sick(*one)
                for cell in todo:
                    self._cured(cell, sick)
        return self.table() if self._order.complete else None

    def table(self) -> dict[str, Any]:
        """The results of what is done by now; cells that are not are named under ``missing``.

        Raises:
            ValueError: nothing is done.
        """
        table, missing, lent = self._found(unpublished(self._order.earlier))
        if not table:
            raise ValueError(f"{self._run.path}: expected measured cells, found none")
        table += _averages([subject.data for subject in self._subjects], self.recipe.average, table)
        for pair in self._pairs:
            table += _gains(pair, table)
        results = audit.results(self._order.notes, beside(table, self.recipe.published), {})
        results["about"] = [*self.recipe.about, f"size: {told(self.size)}"]
        results["figures"] = {file: text for file, (text, _) in self._stamped().items()}
        if lent and self._order.earlier is not None:
            results["figures"] |= self._order.earlier["figures"]
            results["kept"] = kept(self._order.earlier, lent)
        return {**results, "missing": missing} if missing else results

    def _found(self, earlier: Sequence[audit.Row]) -> tuple[list[audit.Row], list[str], set[str]]:
        """What is measured; names of victims and cases that are not; victims of earlier rows."""
        table = [row for subject in self._subjects for row in self._healthy(subject, earlier)]
        missing: list[str] = []
        lent = set[str]()
        draws: dict[str, list[bool]] = {}
        for subject, plant, victim in self._victims():
            name = f"{subject.data} {plant.name} none none spc0, seed {10 * victim}"
            rows = self._rows(subject, plant, victim)
            if not rows and (rows := _of_victim(subject, plant, victim, earlier)):
                lent.add(name)
            if not rows:
                missing.append(name)
                continue
            table += rows
            there = {(row["case"], row["seed"]) for row in rows}
            for cell in self._cells(subject, plant, victim):
                draws.setdefault(cell.case, []).append((cell.case, cell.seed) in there)
        for case, done in draws.items():
            if not all(done):
                missing.append(f"{case} ({sum(done)} of {len(done)} draws)" if any(done) else case)
        return table, missing, lent

    def _rows(self, subject: Subject, plant: Plant, victim: int) -> list[audit.Row]:
        """The rows of a victim and of what is done of its cells; none if it is not trained here."""
        sick = self._folder(subject, plant, victim) / "sick.json"
        if not sick.exists():
            return []
        cells = [self._cell(cell) for cell in self._cells(subject, plant, victim)]
        places = [sick, sick.with_name("healthy.json"), *(cell for cell in cells if cell.exists())]
        return [row for place in places for row in read_json(place)["rows"]]

    def _healthy(self, subject: Subject, earlier: Sequence[audit.Row]) -> list[audit.Row]:
        """The row of the clean control: the earlier one where there is one."""
        path, case = self._control(subject)[1], f"{subject.data} none none none spc0"
        rows = [row for row in earlier if row["case"] == case]
        if rows or not path.exists():
            return rows
        found: list[audit.Row] = read_json(path)["rows"]
        return found

    def figures(self) -> dict[str, Figure]:
        """Test images with and without each trigger, by file name."""
        standing = self._order.earlier["figures"] if self._order.earlier else {}
        drawn = self._stamped().items()
        return {file: figure for file, (_, figure) in drawn if file not in standing}

    # ---------------------------------------------------------------- what is done, and where

    def _victims(self) -> Iterator[tuple[Subject, Plant, int]]:
        for subject in self._subjects:
            for plant in self._plants:
                if not plant.data or subject.data in plant.data:
                    for victim in plant.victims:
                        yield subject, plant, victim

    def _cells(self, subject: Subject, plant: Plant, victim: int) -> Iterator[Cell]:
        for cure in self._cures:
            fits = not cure.data or subject.data in cure.data
            if fits and plant.name in (cure.attacks or [plant.name]):
                for budget in cure.budgets or self.size.budgets:
                    sized = _sized(cure, subject.data, budget, self.size)
                    for sample in range(self.size.samples):
                        yield Cell(subject, plant, victim, sized, budget, sample)

    def _folder(self, subject: Subject, plant: Plant, victim: int) -> Path:
        return self._run.path / subject.data / f"{plant.name}-{victim}"

    def _cell(self, cell: Cell) -> Path:
        folder = self._folder(cell.subject, cell.plant, cell.victim)
        name = f"{cell.cure.name}-{cell.cure.source}-spc{cell.budget}-{cell.sample}"
        return folder / f"{name.replace(' ', '-')}.json"

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
        experiments.trained(
            path, kind, whole, training, seed=0, fields=own, on_step=self._order.on_step
        )
        model = checkpoints.load(path).model
        if not cell.exists():
            share = accuracy(model, whole.test, Meter())
            right = Rate(round(share * len(whole.test)), len(whole.test))
            case = f"{subject.data} none none none spc0"
            write_json(cell, {"rows": [audit.rate_row(case, 0, "clean", right)]})
            self._order.say(f"{case}: clean {right}")
        return model

    def _plant(self, subject: Subject, plant: Plant, victim: int) -> None:
        """Train a victim and measure it, if that is not done."""
        folder = self._folder(subject, plant, victim)
        path, cell = folder / "sick.safetensors", folder / "sick.json"
        clean = self._clean(subject)
        if cell.exists() and (folder / "healthy.json").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        trigger: Trigger = recipes.method(Trigger, plant.trigger, plant.name)
        kind, own = recipes.network(subject.network)
        planted.plant(
            path,
            kind,
            self._data(subject),
            recipes.build(Training, subject.training, "training"),
            trigger,
            AllToOne(subject.target),
            rate=plant.rate,
            seed=victim,
            network=own,
            clean=clean if isinstance(trigger, Fitted) else None,
            on_step=self._order.on_step,
        )
        sick, case = self._sick(subject, plant, victim), f"{subject.data} {plant.name}"
        # What stamps do to the image itself: no repair can be expected to do better.
        healthy = measure(clean, self._data(subject).test, sick.shown)
        rows = cures.rows(f"{case} healthy none spc0", 10 * victim, healthy)
        write_json(folder / "healthy.json", {"rows": rows})
        facts, case = sick.before, f"{case} none none spc0"
        write_json(cell, {"rows": cures.rows(case, 10 * victim, facts)})
        told = f"clean {facts.accuracy}, asr {facts.asr}"
        self._order.say(f"{case}, seed {10 * victim}: {told}")

    def _sick(self, subject: Subject, plant: Plant, victim: int) -> Victim:
        """A victim from its file; what does not change from cell to cell is made here, once."""
        path = self._folder(subject, plant, victim) / "sick.safetensors"
        model, secret, whole = checkpoints.load(path).model, planted.read(path), self._data(subject)
        shown = triggered(whole.test, secret.trigger, secret.aim)
        before = measure(model, whole.test, shown)
        return Victim(model, secret, shown, before, cures.poisoned(whole, secret))

    # ------------------------------------------------------------------------- repaired networks

    def _cured(self, cell: Cell, sick: Victim) -> None:
        place, whole = self._cell(cell), self._data(cell.subject)
        repair: Repair = recipes.method(Repair, cell.cure.repair, cell.cure.name)
        given = cures.evidence(whole, sick.secret, sick.suspects, cell.budget, seed=cell.seed)
        snapshot = self._run.snapshot(f"{cell.subject.data}-{place.parent.name}-{place.stem}")
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

    def _stamped(self) -> dict[str, tuple[str, Figure]]:
        """For each data set its first victims' triggers on some test images."""
        found: dict[str, tuple[str, Figure]] = {}
        for subject in self._subjects:
            test = self._data(subject).test
            x, _ = test.batch(slice(SHOWN))
            columns = [("clean", x)]
            for other, plant, victim in self._victims():
                path = self._folder(other, plant, victim) / "sick.safetensors"
                if other is subject and victim == plant.victims[0] and path.exists():
                    columns.append((plant.name, planted.read(path).trigger.stamp(x)))
            if len(columns) > 1:
                rows = [
                    [(images[k].numpy(), name) for name, images in columns] for k in range(len(x))
                ]
                file = f"{self.recipe.name}-{subject.data}.png"
                found[file] = f"{subject.data}: triggers", pictures(rows)
        return found


def _of_victim(
    subject: Subject, plant: Plant, victim: int, table: Sequence[audit.Row]
) -> list[audit.Row]:
    """The rows of a victim and its cells; what is computed from several is not among them."""
    start = f"{subject.data} {plant.name} "
    own = [row for row in table if row["case"].startswith(start)]
    return [
        row for row in own if row["seed"] // 10 == victim and not row["metric"].startswith("gain:")
    ]


def _subject(table: Mapping[str, Any], size: Size) -> Subject:
    subject: Subject = recipes.build(Subject, table, "subject")
    training = recipes.capped({**subject.training, **size.training}, size.caps)
    recipes.build(Training, training, f"subject {subject.data}.training")
    return replace(subject, network=network(subject.network, size.network), training=training)


def _plant(table: Mapping[str, Any], size: Size) -> Plant:
    plant: Plant = recipes.build(Plant, table, "plant")
    trigger = {**plant.trigger, **size.triggers.get(plant.name, {})}
    recipes.method(Trigger, trigger, f"plant {plant.name}")
    return replace(plant, trigger=trigger)


def _cure(table: Mapping[str, Any]) -> Cure:
    cure: Cure = recipes.build(Cure, table, "cure")
    recipes.method(Repair, cure.repair, f"cure {cure.name}")
    return cure


def _sized(cure: Cure, of: str, budget: int, size: Size) -> Cure:
    """A repair with the settings that it has at a size."""
    settings = dict(cure.repair)
    for key in (cure.name, f"{of} {cure.name}", f"{of} {cure.name} spc{budget}"):
        settings |= size.instead.get(key, {})
    made = recipes.method(Repair, settings, f"cure {cure.name}")
    own = {name: getattr(made, name) for name in size.caps if hasattr(made, name)}
    return replace(cure, repair={**settings, **recipes.capped(own, size.caps)})


def _require_known(
    instead: Mapping[str, Any],
    subjects: Sequence[Subject],
    cures_: Sequence[Cure],
    budgets: Sequence[int],
) -> None:
    names = [cure.name for cure in cures_]
    names += [f"{subject.data} {cure.name}" for subject, cure in product(subjects, cures_)]
    closest = product(subjects, cures_, {*budgets, *(b for cure in cures_ for b in cure.budgets)})
    names += [f"{subject.data} {cure.name} spc{budget}" for subject, cure, budget in closest]
    for name in instead:
        checks.known("repair", name, names)


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
