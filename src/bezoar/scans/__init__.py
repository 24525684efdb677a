"""Scans, one file a method: is there a backdoor in this model, is there poison in these data."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.scans.protocol import DataScan, Finding, ModelScan, anomaly

MODEL_SCANS: Mapping[str, type[ModelScan]] = MappingProxyType({})
DATA_SCANS: Mapping[str, type[DataScan]] = MappingProxyType({})

__all__ = ["DATA_SCANS", "MODEL_SCANS", "DataScan", "Finding", "ModelScan", "anomaly"]
