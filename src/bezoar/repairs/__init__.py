"""Repairs, one file a method. Each takes a classifier and clean data, and gives another back."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.repairs.correct import Correct
from bezoar.repairs.fine_tune import FineTune
from bezoar.repairs.protocol import Repair, Stop
from bezoar.repairs.remove import AtRandom, ByLoss, Ranking, Remove
from bezoar.repairs.selection import All, Misclassified, Selection, TopLoss
from bezoar.repairs.twins import Accumulate, ByRound, Online, Schedule

REPAIRS: Mapping[str, type[Repair]] = MappingProxyType(
    {
        "correct": Correct,
        "ft": FineTune,
        "remove": Remove,
    }
)

# The values that a repair's fields take, by name.
TWINS: Mapping[str, type[Schedule]] = MappingProxyType(
    {"online": Online, "round": ByRound, "accumulate": Accumulate}
)
SELECTIONS: Mapping[str, type[Selection]] = MappingProxyType(
    {"all": All, "top-loss": TopLoss, "misclassified": Misclassified}
)
RANKINGS: Mapping[str, type[Ranking]] = MappingProxyType({"loss": ByLoss, "random": AtRandom})

__all__ = [
    "RANKINGS",
    "REPAIRS",
    "SELECTIONS",
    "TWINS",
    "Accumulate",
    "All",
    "AtRandom",
    "ByLoss",
    "ByRound",
    "Correct",
    "FineTune",
    "Misclassified",
    "Online",
    "Remove",
    "Repair",
    "Stop",
    "TopLoss",
]
