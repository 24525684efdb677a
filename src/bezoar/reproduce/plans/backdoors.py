"""What a recipe of backdoors may say, checked before anything is run: victims and their repairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

from bezoar import checks, recipes
from bezoar.repairs import Repair
from bezoar.reproduce.sized import chosen, network
from bezoar.training import Training
from bezoar.triggers import Trigger


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
        without: repairs ``DATA NAME SOURCE`` that take longer than the size allows; not done.
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
    without: list[str] = field(default_factory=list)
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
class Victim:
    """A network that is made sick, by the seed of its training."""

    subject: Subject
    plant: Plant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.subject.data} {self.plant.name}"

    @property
    def row(self) -> int:
        """Its number in the column ``seed`` of the table."""
        return 10 * self.seed

    @property
    def told(self) -> str:
        """Which network it is, in the words of the table."""
        return f"{self.name} none none spc0, seed {self.row}"


@dataclass(frozen=True)
class Cell:
    """One repair of one victim with one draw of the defender's images."""

    victim: Victim
    cure: Cure
    budget: int
    sample: int

    @property
    def repair(self) -> str:
        return f"{self.victim.name} {self.cure.name} {self.cure.source}"

    @property
    def case(self) -> str:
        return f"{self.repair} spc{self.budget}"

    @property
    def seed(self) -> int:
        return self.victim.row + self.sample


@dataclass(frozen=True)
class Plan:
    """A recipe at one of its sizes: everything that there is to do."""

    size: Size
    subjects: list[Subject]
    plants: list[Plant]
    cures: list[Cure]
    pairs: list[Pair]

    def victims(self) -> Iterator[Victim]:
        """The sick networks, in the order of the table."""
        for subject, plant in product(self.subjects, self.plants):
            if not plant.data or subject.data in plant.data:
                for seed in plant.victims:
                    yield Victim(subject, plant, seed)

    def cells(self, victim: Victim) -> Iterator[Cell]:
        """The repairs of a sick network, in the order of the table."""
        data, attack = victim.subject.data, victim.plant.name
        for cure in self.cures:
            fits = data in (cure.data or [data]) and attack in (cure.attacks or [attack])
            if fits and f"{data} {cure.name} {cure.source}" not in self.size.without:
                for budget in cure.budgets or self.size.budgets:
                    sized = _sized(cure, data, budget, self.size)
                    for sample in range(self.size.samples):
                        yield Cell(victim, sized, budget, sample)


def plan(recipe: Recipe, size: str) -> Plan:
    """A recipe at one of its sizes; whatever is wrong in it is found now.

    Raises:
        ValueError: an unknown size, or a name or setting that is not one.
    """
    own = chosen(Size, recipe.sizes, size)
    checks.at_least("samples", own.samples, 1)
    subjects = [_subject(table, own) for table in recipe.subject]
    plants = [_plant(table, own) for table in recipe.plant]
    cures = [_cure(table) for table in recipe.cure]
    pairs: list[Pair] = [recipes.build(Pair, table, "pair") for table in recipe.pair]
    attacks = [plant.name for plant in plants]
    for name in [*recipe.average, *own.triggers, *(a for cure in cures for a in cure.attacks)]:
        checks.known("attack", name, attacks)
    _require_known(own.instead, subjects, cures, own.budgets)
    for subject, cure in product(subjects, cures):
        for budget in cure.budgets or own.budgets:
            _sized(cure, subject.data, budget, own)  # refuses what is wrong in it
    named = [f"{cure.name} {cure.source}" for cure in cures]
    for side in (side for pair in pairs for side in (pair.first, pair.second)):
        checks.known("repair", side, named)
    for name in own.without:
        checks.known("repair", name, [f"{s.data} {n}" for s, n in product(subjects, named)])
    return Plan(own, subjects, plants, cures, pairs)


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
    cures: Sequence[Cure],
    budgets: Sequence[int],
) -> None:
    names = [cure.name for cure in cures]
    names += [f"{subject.data} {cure.name}" for subject, cure in product(subjects, cures)]
    closest = product(subjects, cures, {*budgets, *(b for cure in cures for b in cure.budgets)})
    names += [f"{subject.data} {cure.name} spc{budget}" for subject, cure, budget in closest]
    for name in instead:
        checks.known("repair", name, names)
