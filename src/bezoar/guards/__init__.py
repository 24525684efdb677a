"""Guards, one file a method. Each takes a classifier and clean data, and stands in front of it."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.guards.bayes_cae import BayesCAE
from bezoar.guards.cae import CAE
from bezoar.guards.jpeg import JPEG
from bezoar.guards.protocol import Guard
from bezoar.guards.resize_pad import ResizePad

GUARDS: Mapping[str, type[Guard]] = MappingProxyType(
    {"cae": CAE, "bayes-cae": BayesCAE, "jpeg": JPEG, "resize-pad": ResizePad}
)

__all__ = ["CAE", "GUARDS", "JPEG", "BayesCAE", "Guard", "ResizePad"]
