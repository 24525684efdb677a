"""What a recipe of scans may say, checked before anything is run: models, and looks at them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bezoar import checks, recipes
from bezoar.guards import GUARDS, IBDPSC, STRIP, Guard, ScaleUp
from bezoar.reproduce.sized import chosen, network
from bezoar.scans import DATA_SCANS, DataScan, ModelScan
from bezoar.training import Training
from bezoar.triggers import Trigger

SIFTS = tuple(DATA_SCANS.values())
WATCHES = (IBDPSC, STRIP, ScaleUp)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything an experiment uses.

    Args:
        calibrate: models of each kind, healthy and sick, that thresholds are set on.
        fresh: models of each kind that are measured with them.
        spc: trusted images of each class that a scan may see.
        train, test: first images of the splits; 0 is all.
        watched: first test images that are shown to a guard, as they are and stamped.
        alarms: share of healthy models that a threshold may accuse.
        network: fields of the networks instead of those of the subject.
        caps: what a setting of that name may be at most, in any training or scan.
    """

    calibrate: int = 10
    fresh: int = 32
    spc: int = 10
    train: int = 0
    test: int = 1000
    watched: int = 200
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
        scan: name and settings, of a scan of models or of data, or of a guard that looks at one
            image at a time.
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


@dataclass(frozen=True)
class Plan:
    """A recipe at one of its sizes: everything that there is to do.

    Attributes:
        scans: the scan, or the guard, of each look.
    """

    size: Size
    subjects: list[Subject]
    plants: list[Plant]
    looks: list[Look]
    scans: dict[str, Any]

    @property
    def numbers(self) -> range:
        """The seeds of models: of each there is a healthy and a sick one on each data set."""
        return range(self.size.calibrate + self.size.fresh)

    def models(self, subject: Subject) -> Iterator[Model]:
        """Healthy and sick ones, those that thresholds are set on first."""
        for number in self.numbers:
            yield Model(subject, None, number)
            yield Model(subject, self.plants[number % len(self.plants)], number)

    def fresh(self, model: Model) -> bool:
        """Whether no threshold is set on it."""
        return model.number >= self.size.calibrate


def plan(recipe: Recipe, size: str) -> Plan:
    """A recipe at one of its sizes; whatever is wrong in it is found now.

    Raises:
        ValueError: an unknown size, a name or setting that is not one, or too few healthy models
            to set a threshold on.
    """
    own = chosen(Size, recipe.sizes, size)
    for name in ("calibrate", "fresh"):
        checks.at_least(name, getattr(own, name), 1)
    checks.in_range("alarms", own.alarms, 0, 1)
    if conformal([0.0] * own.calibrate, own.alarms) == math.inf:
        found = f"calibrate={own.calibrate} for alarms={own.alarms}"
        raise ValueError(f"{found}: expected more healthy models; see conformal")
    subjects = [_subject(table, own) for table in recipe.subject]
    plants: list[Plant] = [recipes.build(Plant, table, "plant") for table in recipe.plant]
    for plant in plants:
        recipes.method(Trigger, plant.trigger, f"plant {plant.name}")
    looks: list[Look] = [recipes.build(Look, table, "look") for table in recipe.look]
    return Plan(own, subjects, plants, looks, {look.name: _scan(look, own) for look in looks})


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
    name = look.scan.get("name")
    watches = any(GUARDS.get(str(name)) is kind for kind in WATCHES)
    kind = Guard if watches else DataScan if name in DATA_SCANS else ModelScan
    made = recipes.method(kind, look.scan, f"look {look.name}")
    caps = {name: cap for name, cap in size.caps.items() if hasattr(made, name)}
    return replace(made, **{name: min(getattr(made, name), cap) for name, cap in caps.items()})
