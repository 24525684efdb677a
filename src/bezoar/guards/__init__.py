"""Guards, one file a method. Each takes a classifier and clean data, and stands in front of it."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.guards.bit_depth import BitDepth
from bezoar.guards.cae import CAE
from bezoar.guards.magnet import MagNet
from bezoar.guards.median import Median
from bezoar.guards.non_local_means import NonLocalMeans
from bezoar.guards.protocol import Guard
from bezoar.guards.smoothing import Smoothing
from bezoar.guards.squeezing import Squeezing

GUARDS: Mapping[str, type[Guard]] = MappingProxyType(
    {
        "bit-depth": BitDepth,
        "cae": CAE,
        "magnet": MagNet,
        "median": Median,
        "non-local-means": NonLocalMeans,
        "smoothing": Smoothing,
        "squeezing": Squeezing,
    }
)

__all__ = [
    "CAE",
    "GUARDS",
    "BitDepth",
    "Guard",
    "MagNet",
    "Median",
    "NonLocalMeans",
    "Smoothing",
    "Squeezing",
]
