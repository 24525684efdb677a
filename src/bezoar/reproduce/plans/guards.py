"""What a recipe of guards may say, checked before anything is run: networks, guards, attackers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bezoar import checks, recipes
from bezoar.attacks.oracle import DRAWS
from bezoar.guards import Guard
from bezoar.matrix import Access
from bezoar.reproduce.sized import chosen, network
from bezoar.training import Training

Images = Literal["many", "some", "few"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything an experiment uses.

    Args:
        seed: of weights, order of data, noise.
        train, validation: first images of the splits; 0 is all.
        many, some, few: images of the test split for attacks of a step, of some tens, of hundreds.
        certified: images that get a certificate; ``samples`` draws each.
        network: fields of the networks instead of those of the subject, for example the width.
        instead: settings of a guard instead of those of its case, by the name of the case.
        caps: what a setting of that name may be at most, in any training or guard.
    """

    seed: int = 0
    train: int = 0
    validation: int = 0
    many: int = 10000
    some: int = 1000
    few: int = 200
    certified: int = 500
    samples: int = 10_000
    network: dict[str, Any] = field(default_factory=dict)
    instead: dict[str, dict[str, Any]] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A data set, the network on it, and that of an attacker who has not got ours.

    Args:
        data: name of the data set; the cases are called ``DATA GUARD``.
        network, other: name and fields, for example ``vgg-8conv:width=64``.
        training: of both, settings of ``Training``.
    """

    data: str
    network: str
    other: str
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A guard by name.

    Args:
        name: in the table, after that of the data.
        guard: name and settings; none for the network alone.
        data: the data sets that it is made for; all if empty.
        most: images that are attacked at most, by who ignores the guard; 0 is all.
        known: the same by who knows it.
        draws: passes over which an attacker who knows it averages.
    """

    name: str
    guard: dict[str, Any] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    most: int = 0
    known: int = 0
    draws: int = DRAWS


@dataclass(frozen=True, kw_only=True)
class Measure:
    """An attack, by the attackers that make it.

    Args:
        attack: name and settings.
        access: what they know, names in ``matrix.ACCESSES``.
        images: ``many``, ``some`` or ``few``, numbers of the size.
        cases: names of the cases that get it; all if empty.
    """

    attack: str
    access: list[Access] = field(default_factory=lambda: ["adaptive"])
    images: Images = "many"
    cases: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole experiment with guards as data.

    Args:
        format: of the recipe, 1.
        name: of the results file.
        paper: what is reproduced.
        about: how it differs from the paper; printed above the table.
        detected: attack that a guard with a score is measured against as a detector.
        published: by case, by metric, what the paper says; shown beside what is measured.
        beside: names of results files whose rows stand in the same table, and the commands that
            make them.
        sizes: tables of ``Size``.
        subject: tables of ``Subject``.
        case: tables of ``Case``.
        measure: tables of ``Measure``.
    """

    format: int
    name: str
    paper: str
    about: list[str]
    sizes: dict[str, dict[str, Any]]
    subject: list[dict[str, Any]]
    case: list[dict[str, Any]]
    measure: list[dict[str, Any]]
    detected: str = ""
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A recipe at one of its sizes: everything that there is to do."""

    size: Size
    subjects: list[Subject]
    cases: list[Case]
    measures: list[Measure]

    def pairs(self) -> Iterator[tuple[Subject, Case]]:
        """Each data set with each guard that is made for it."""
        for subject in self.subjects:
            for case in self.cases:
                if not case.data or subject.data in case.data:
                    yield subject, case

    def asked(self, case: Case) -> list[Measure]:
        """The attacks that a case gets."""
        return [one for one in self.measures if case.name in (one.cases or [case.name])]


def plan(recipe: Recipe, size: str) -> Plan:
    """A recipe at one of its sizes; whatever is wrong in it is found now.

    Raises:
        ValueError: an unknown size, or a name or setting that is not one.
    """
    own = chosen(Size, recipe.sizes, size)
    subjects = [_subject(table, own) for table in recipe.subject]
    cases = [_case(table, own) for table in recipe.case]
    names = [case.name for case in cases]
    for name in own.instead:
        checks.known("case", name, names)
    return Plan(own, subjects, cases, [_measure(table, names) for table in recipe.measure])


def _subject(table: Mapping[str, Any], size: Size) -> Subject:
    subject: Subject = recipes.build(Subject, table, "subject")
    recipes.network(subject.other)
    recipes.build(Training, subject.training, f"subject {subject.data}.training")
    return replace(subject, network=network(subject.network, size.network))


def _case(table: Mapping[str, Any], size: Size) -> Case:
    """A case with the settings that its guard has at a size."""
    case: Case = recipes.build(Case, table, "case")
    if not case.guard:
        return case
    guard = recipes.capped({**case.guard, **size.instead.get(case.name, {})}, size.caps)
    recipes.method(Guard, guard, f"case {case.name}")
    return replace(case, guard=guard)


def _measure(table: Mapping[str, Any], cases: Sequence[str]) -> Measure:
    measure: Measure = recipes.build(Measure, table, "measure")
    recipes.attack(measure.attack)
    for name in measure.cases:
        checks.known("case", name, cases)
    return measure
