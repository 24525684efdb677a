"""Evasion attacks, one file a method. Each takes any classifier."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.attacks.fgsm import FGSM
from bezoar.attacks.fgsm_rs import FGSMRandomStart
from bezoar.attacks.noise import UniformNoise
from bezoar.attacks.pgd import PGD
from bezoar.attacks.pgd_l2 import PGDL2
from bezoar.attacks.protocol import Attack, Goal, Targeted, Untargeted

ATTACKS: Mapping[str, type[Attack]] = MappingProxyType(
    {
        "fgsm": FGSM,
        "fgsm-rs": FGSMRandomStart,
        "pgd": PGD,
        "pgd-l2": PGDL2,
        "noise": UniformNoise,
    }
)

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "PGDL2",
    "Attack",
    "FGSMRandomStart",
    "Goal",
    "Targeted",
    "UniformNoise",
    "Untargeted",
]
