"""Evasion attacks, one file a method. Each takes any classifier."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.attacks.admix import Admix
from bezoar.attacks.apgd import APGD
from bezoar.attacks.apgd_l1 import APGDL1
from bezoar.attacks.apgd_targeted import APGDTargeted
from bezoar.attacks.autoattack import AutoAttack
from bezoar.attacks.autoattack_plus import AutoAttackPlus
from bezoar.attacks.autoattack_rand import AutoAttackRand
from bezoar.attacks.bim import BIM
from bezoar.attacks.boundary import Boundary
from bezoar.attacks.brendel_bethge import BrendelBethge
from bezoar.attacks.cw_l2 import CWL2
from bezoar.attacks.cw_linf import CWLinf
from bezoar.attacks.ddn import DDN
from bezoar.attacks.deepfool import DeepFool
from bezoar.attacks.di_fgsm import DIFGSM
from bezoar.attacks.ead import EAD
from bezoar.attacks.fab import FAB
from bezoar.attacks.fab_targeted import FABTargeted
from bezoar.attacks.fgsm import FGSM
from bezoar.attacks.fgsm_rs import FGSMRandomStart
from bezoar.attacks.fmn import FMN
from bezoar.attacks.geoda import GeoDA
from bezoar.attacks.hopskipjump import HopSkipJump
from bezoar.attacks.jsma import JSMA
from bezoar.attacks.lbfgs import LBFGS
from bezoar.attacks.mi_fgsm import MIFGSM
from bezoar.attacks.nes import NES
from bezoar.attacks.newtonfool import NewtonFool
from bezoar.attacks.ni_fgsm import NIFGSM
from bezoar.attacks.noise import UniformNoise
from bezoar.attacks.one_pixel import OnePixel
from bezoar.attacks.pgd import PGD
from bezoar.attacks.pgd_l2 import PGDL2
from bezoar.attacks.pixle import Pixle
from bezoar.attacks.protocol import Attack, Fitted, Goal, Targeted, Untargeted
from bezoar.attacks.r_fgsm import RFGSM
from bezoar.attacks.si_fgsm import SIFGSM
from bezoar.attacks.sigma_zero import SigmaZero
from bezoar.attacks.sign_opt import SignOPT
from bezoar.attacks.simba import SimBA
from bezoar.attacks.spatial import Spatial
from bezoar.attacks.spsa import SPSA
from bezoar.attacks.square import Square
from bezoar.attacks.square_l2 import SquareL2
from bezoar.attacks.ti_fgsm import TIFGSM
from bezoar.attacks.universal import Universal
from bezoar.attacks.vmi_fgsm import VMIFGSM
from bezoar.attacks.zoo import ZOO

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
        "apgd-l1": APGDL1,
        "fab": FAB,
        "fab-t": FABTargeted,
        "deepfool": DeepFool,
        "ddn": DDN,
        "fmn": FMN,
        "cw-l2": CWL2,
        "lbfgs": LBFGS,
        "brendel-bethge": BrendelBethge,
        "newtonfool": NewtonFool,
        "jsma": JSMA,
        "cw-linf": CWLinf,
        "ead": EAD,
        "sigma-zero": SigmaZero,
        "square": Square,
        "square-l2": SquareL2,
        "nes": NES,
        "spsa": SPSA,
        "simba": SimBA,
        "hopskipjump": HopSkipJump,
        "boundary": Boundary,
        "geoda": GeoDA,
        "sign-opt": SignOPT,
        "zoo": ZOO,
        "one-pixel": OnePixel,
        "pixle": Pixle,
        "spatial": Spatial,
        "autoattack": AutoAttack,
        "autoattack-plus": AutoAttackPlus,
        "autoattack-rand": AutoAttackRand,
        "mi-fgsm": MIFGSM,
        "ni-fgsm": NIFGSM,
        "si-fgsm": SIFGSM,
        "di-fgsm": DIFGSM,
        "ti-fgsm": TIFGSM,
        "vmi-fgsm": VMIFGSM,
        "admix": Admix,
        "universal": Universal,
        "noise": UniformNoise,
    }
)

__all__ = [
    "APGD",
    "APGDL1",
    "ATTACKS",
    "BIM",
    "CWL2",
    "DDN",
    "DIFGSM",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "LBFGS",
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
    "ZOO",
    "APGDTargeted",
    "Admix",
    "Attack",
    "AutoAttack",
    "AutoAttackPlus",
    "AutoAttackRand",
    "Boundary",
    "BrendelBethge",
    "CWLinf",
    "DeepFool",
    "FABTargeted",
    "FGSMRandomStart",
    "Fitted",
    "GeoDA",
    "Goal",
    "HopSkipJump",
    "NewtonFool",
    "OnePixel",
    "Pixle",
    "SigmaZero",
    "SignOPT",
    "SimBA",
    "Spatial",
    "Square",
    "SquareL2",
    "Targeted",
    "UniformNoise",
    "Universal",
    "Untargeted",
]
