"""Guards, one file a method. Each takes a classifier and clean data, and stands in front of it."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.guards.cae import CAE
from bezoar.guards.jpeg import JPEG
from bezoar.guards.protocol import Guard

GUARDS: Mapping[str, type[Guard]] = MappingProxyType({"cae": CAE, "jpeg": JPEG})

__all__ = ["CAE", "GUARDS", "JPEG", "Guard"]
