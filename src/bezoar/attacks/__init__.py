"""Evasion attacks, one file a method. Each takes any classifier."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.attacks.apgd import APGD
from bezoar.attacks.apgd_targeted import APGDTargeted
from bezoar.attacks.autoattack import AutoAttack
from bezoar.attacks.bim import BIM
from bezoar.attacks.cw_l2 import CWL2
from bezoar.attacks.cw_linf import CWLinf
from bezoar.attacks.ddn import DDN
from bezoar.attacks.deepfool import DeepFool
from bezoar.attacks.di_fgsm import DIFGSM
from bezoar.attacks.ead import EAD
from bezoar.attacks.fab_targeted import FABTargeted
from bezoar.attacks.fgsm import FGSM
from bezoar.attacks.fgsm_rs import FGSMRandomStart
from bezoar.attacks.fmn import FMN
from bezoar.attacks.mi_fgsm import MIFGSM
from bezoar.attacks.nes import NES
from bezoar.attacks.ni_fgsm import NIFGSM
from bezoar.attacks.noise import UniformNoise
from bezoar.attacks.pgd import PGD
from bezoar.attacks.pgd_l2 import PGDL2
from bezoar.attacks.protocol import Attack, Goal, Targeted, Untargeted
from bezoar.attacks.r_fgsm import RFGSM
from bezoar.attacks.si_fgsm import SIFGSM
from bezoar.attacks.sigma_zero import SigmaZero
from bezoar.attacks.simba import SimBA
from bezoar.attacks.spsa import SPSA
from bezoar.attacks.square import Square
from bezoar.attacks.square_l2 import SquareL2
from bezoar.attacks.ti_fgsm import TIFGSM
from bezoar.attacks.vmi_fgsm import VMIFGSM

ATTACKS: Mapping[str, type[Attack]] = MappingProxyType(
    {
        "fgsm": FGSM,
        "fgsm-rs": FGSMRandomStart,
        "r-fgsm": RFGSM,
        "bim": BIM,
        "pgd": PGD,
        "pgd-l2": PGDL2,
        "apgd": APGD,
        "apgd-t": APGDTargeted,
        "fab-t": FABTargeted,
        "deepfool": DeepFool,
        "ddn": DDN,
        "fmn": FMN,
        "cw-l2": CWL2,
        "cw-linf": CWLinf,
        "ead": EAD,
        "sigma-zero": SigmaZero,
        "square": Square,
        "square-l2": SquareL2,
        "nes": NES,
        "spsa": SPSA,
        "simba": SimBA,
        "autoattack": AutoAttack,
        "mi-fgsm": MIFGSM,
        "ni-fgsm": NIFGSM,
        "si-fgsm": SIFGSM,
        "di-fgsm": DIFGSM,
        "ti-fgsm": TIFGSM,
        "vmi-fgsm": VMIFGSM,
        "noise": UniformNoise,
    }
)

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "CWL2",
    "DDN",
    "DIFGSM",
    "EAD",
    "FGSM",
    "FMN",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PGD",
    "PGDL2",
    "RFGSM",
    "SIFGSM",
    "SPSA",
    "TIFGSM",
    "VMIFGSM",
    "APGDTargeted",
    "Attack",
    "AutoAttack",
    "CWLinf",
    "DeepFool",
    "FABTargeted",
    "FGSMRandomStart",
    "Goal",
    "SigmaZero",
    "SimBA",
    "Square",
    "SquareL2",
    "Targeted",
    "UniformNoise",
    "Untargeted",
]
