"""What a recipe of repairs may say, checked before anything is run: networks, cases, trials."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bezoar import checks, models, recipes
from bezoar.attacks import Attack
from bezoar.repairs import Repair
from bezoar.reproduce.sized import chosen
from bezoar.training import Training


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the data an experiment uses.

    Args:
        seeds: of weights, order of data, noise; one of everything for each.
        train, validation, tested: first images of the splits; 0 is all.
        restarted: images of the test split that get 5 restarts of PGD-40.
    """

    seeds: list[int]
    train: int = 0
    validation: int = 0
    tested: int = 0
    restarted: int = 2000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A repair by name. Without one it is the winner of ``Network.winner_of``.

    Args:
        name: in the table, behind the prefix of the network.
        repair: name and settings.
        start: the network's trained base, or an untrained network.
        trials: settings to try on the first seed, each over those of the repair; one is taken
            for all seeds. Of those that reach the repair's target on validation it is the one
            with the fewest passes, and of equals (to 1 %), or where none reaches it, the most
            robust on validation.
    """

    name: str = ""
    repair: dict[str, Any] = field(default_factory=dict)
    start: Literal["base", "scratch"] = "base"
    trials: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network and what is done to it."""

    kind: str
    prefix: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    winner_of: str = ""
    case: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole experiment as data.

    Args:
        format: of the recipe, 1.
        name: of the results file.
        paper: what is reproduced.
        data: name of the data set.
        eps: radius of the many-step attacks.
        curve: radii of the one-step attack; ``eps`` is one of them.
        published: by case, by metric, what the paper says; shown beside what is measured.
        judge: attack on validation images that winners are chosen by.
        sizes: tables of ``Size``.
        network: tables of ``Network``.
    """

    format: int
    name: str
    paper: str
    data: str
    eps: float
    curve: list[float]
    judge: dict[str, Any]
    sizes: dict[str, dict[str, Any]]
    network: list[dict[str, Any]]
    published: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A recipe at one of its sizes: everything that there is to do.

    Attributes:
        judge: attack that winners are chosen by.
        networks: each with its cases.
    """

    size: Size
    judge: Attack
    networks: list[tuple[Network, list[Case]]]

    @property
    def kinds(self) -> list[str]:
        return [network.kind for network, _ in self.networks]


def plan(recipe: Recipe, size: str) -> Plan:
    """A recipe at one of its sizes; whatever is wrong in it is found now.

    Raises:
        ValueError: an unknown size, or a name or setting that is not one.
    """
    own = chosen(Size, recipe.sizes, size)
    if recipe.eps not in recipe.curve:
        raise ValueError(f"eps={recipe.eps}: expected one of curve={recipe.curve}")
    found = Plan(own, recipes.attack(recipe.judge), [_network(table) for table in recipe.network])
    for network, _ in found.networks:
        if network.winner_of:
            checks.known("network", network.winner_of, found.kinds)
    return found


def _network(table: Mapping[str, Any]) -> tuple[Network, list[Case]]:
    """A network and its cases from their tables."""
    network: Network = recipes.build(Network, table, "network")
    checks.known("model", network.kind, models.MODELS)
    where = f"network {network.kind}"
    recipes.build(Training, network.training, f"{where}.training")
    cases = [recipes.build(Case, case, f"{where}.case") for case in network.case]
    for case in cases:
        if not case.repair and not network.winner_of:
            raise ValueError(f"{where}.{case.name}: expected a repair, or winner_of in the network")
        for settings in [case.repair, *(merged(case.repair, trial) for trial in case.trials)]:
            if case.repair:
                recipes.method(Repair, settings, f"{where}.{case.name}")
    return network, cases


def merged(repair: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of a trial over them; tables are merged, not replaced."""
    both = dict(repair)
    for key, value in over.items():
        below = both.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merged(below, value)
        both[key] = value
    return both
