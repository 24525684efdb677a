"""Triggers of backdoors, one file a method, and the poisoning of training sets with them."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.triggers.adaptive_blend import AdaptiveBlend
from bezoar.triggers.adaptive_patch import AdaptivePatch
from bezoar.triggers.badnets import BadNets
from bezoar.triggers.blended import Blended
from bezoar.triggers.bpp import Bpp
from bezoar.triggers.ftrojan import FTrojan
from bezoar.triggers.input_aware import InputAware
from bezoar.triggers.label_consistent import LabelConsistent
from bezoar.triggers.low_frequency import LowFrequency
from bezoar.triggers.poison import Poisoned, planting, poison
from bezoar.triggers.protocol import Aim, AllToAll, AllToOne, Fitted, Trigger
from bezoar.triggers.sig import SIG
from bezoar.triggers.trojannn import TrojanNN
from bezoar.triggers.wanet import WaNet

TRIGGERS: Mapping[str, type[Trigger]] = MappingProxyType(
    {
        "adaptive-blend": AdaptiveBlend,
        "adaptive-patch": AdaptivePatch,
        "badnets": BadNets,
        "blended": Blended,
        "bpp": Bpp,
        "ftrojan": FTrojan,
        "input-aware": InputAware,
        "label-consistent": LabelConsistent,
        "lf": LowFrequency,
        "sig": SIG,
        "trojannn": TrojanNN,
        "wanet": WaNet,
    }
)

__all__ = [
    "SIG",
    "TRIGGERS",
    "AdaptiveBlend",
    "AdaptivePatch",
    "Aim",
    "AllToAll",
    "AllToOne",
    "BadNets",
    "Blended",
    "Bpp",
    "FTrojan",
    "Fitted",
    "InputAware",
    "LabelConsistent",
    "LowFrequency",
    "Poisoned",
    "Trigger",
    "TrojanNN",
    "WaNet",
    "planting",
    "poison",
]
