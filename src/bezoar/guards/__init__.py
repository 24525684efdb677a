"""Guards, one file a method. Each takes a classifier and clean data, and stands in front of it."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.guards.bayes_cae import BayesCAE
from bezoar.guards.bit_depth import BitDepth
from bezoar.guards.cae import CAE
from bezoar.guards.defense_gan import DefenseGAN
from bezoar.guards.ibd_psc import IBDPSC
from bezoar.guards.jpeg import JPEG
from bezoar.guards.magnet import MagNet
from bezoar.guards.median import Median
from bezoar.guards.non_local_means import NonLocalMeans
from bezoar.guards.protocol import Guard
from bezoar.guards.puvae import PuVAE
from bezoar.guards.resize_pad import ResizePad
from bezoar.guards.scale_up import ScaleUp
from bezoar.guards.smoothing import Smoothing
from bezoar.guards.squeezing import Squeezing
from bezoar.guards.strip import STRIP

GUARDS: Mapping[str, type[Guard]] = MappingProxyType(
    {
        "bayes-cae": BayesCAE,
        "bit-depth": BitDepth,
        "cae": CAE,
        "defense-gan": DefenseGAN,
        "ibd-psc": IBDPSC,
        "jpeg": JPEG,
        "magnet": MagNet,
        "median": Median,
        "non-local-means": NonLocalMeans,
        "puvae": PuVAE,
        "resize-pad": ResizePad,
        "scale-up": ScaleUp,
        "smoothing": Smoothing,
        "squeezing": Squeezing,
        "strip": STRIP,
    }
)

__all__ = [
    "CAE",
    "GUARDS",
    "IBDPSC",
    "JPEG",
    "STRIP",
    "BayesCAE",
    "BitDepth",
    "DefenseGAN",
    "Guard",
    "MagNet",
    "Median",
    "NonLocalMeans",
    "PuVAE",
    "ResizePad",
    "ScaleUp",
    "Smoothing",
    "Squeezing",
]
