"""Repairs, one file a method. Each takes a classifier and clean data, and gives another back."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.repairs.abl import ABL
from bezoar.repairs.anp import ANP
from bezoar.repairs.clp import CLP
from bezoar.repairs.correct import Correct
from bezoar.repairs.fine_pruning import FinePruning
from bezoar.repairs.fine_tune import FineTune
from bezoar.repairs.ft_sam import FTSAM
from bezoar.repairs.grad_prune import GradPrune
from bezoar.repairs.i_bau import IBAU
from bezoar.repairs.ims import IMS
from bezoar.repairs.nad import NAD
from bezoar.repairs.nc import NeuralCleanseUnlearning
from bezoar.repairs.protocol import Repair, Stop
from bezoar.repairs.pruning import ByGradient, ByLot, ByTaylor, Score
from bezoar.repairs.remove import AtRandom, ByLoss, Ranking, Remove
from bezoar.repairs.rnp import RNP
from bezoar.repairs.sau import SAU
from bezoar.repairs.selection import All, Misclassified, Selection, TopLoss
from bezoar.repairs.sources import Oracle, Recovered, Source, Surrogate
from bezoar.repairs.twins import Accumulate, ByRound, Online, Schedule

REPAIRS: Mapping[str, type[Repair]] = MappingProxyType(
    {
        "abl": ABL,
        "anp": ANP,
        "clp": CLP,
        "correct": Correct,
        "fine-pruning": FinePruning,
        "ft": FineTune,
        "ft-sam": FTSAM,
        "grad-prune": GradPrune,
        "i-bau": IBAU,
        "ims": IMS,
        "nad": NAD,
        "nc": NeuralCleanseUnlearning,
        "remove": Remove,
        "rnp": RNP,
        "sau": SAU,
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
SCORES: Mapping[str, type[Score]] = MappingProxyType(
    {"gradient": ByGradient, "taylor": ByTaylor, "random": ByLot}
)
SOURCES: Mapping[str, type[Source]] = MappingProxyType(
    {"oracle": Oracle, "recovered": Recovered, "surrogate": Surrogate}
)

__all__ = [
    "ABL",
    "ANP",
    "CLP",
    "FTSAM",
    "IBAU",
    "IMS",
    "NAD",
    "RANKINGS",
    "REPAIRS",
    "RNP",
    "SAU",
    "SCORES",
    "SELECTIONS",
    "SOURCES",
    "TWINS",
    "Accumulate",
    "All",
    "AtRandom",
    "ByGradient",
    "ByLoss",
    "ByLot",
    "ByRound",
    "ByTaylor",
    "Correct",
    "FinePruning",
    "FineTune",
    "GradPrune",
    "Misclassified",
    "NeuralCleanseUnlearning",
    "Online",
    "Oracle",
    "Recovered",
    "Remove",
    "Repair",
    "Score",
    "Source",
    "Stop",
    "Surrogate",
    "TopLoss",
]
