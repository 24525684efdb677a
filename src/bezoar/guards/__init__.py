"""Guards, one file a method. Each takes a classifier and clean data, and stands in front of it."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.guards.cae import CAE
from bezoar.guards.protocol import Guard
from bezoar.guards.puvae import PuVAE

GUARDS: Mapping[str, type[Guard]] = MappingProxyType({"cae": CAE, "puvae": PuVAE})

__all__ = ["CAE", "GUARDS", "Guard", "PuVAE"]
