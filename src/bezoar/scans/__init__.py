"""Scans, one file a method: is there a backdoor in this model, is there poison in these data."""

from collections.abc import Mapping
from types import MappingProxyType

from bezoar.scans.activation_clustering import ActivationClustering
from bezoar.scans.channel_lipschitz import ChannelLipschitz
from bezoar.scans.mm_bd import MMBD
from bezoar.scans.neural_cleanse import NeuralCleanse, Triggers, inverted
from bezoar.scans.protocol import DataScan, Finding, ModelScan, anomaly
from bezoar.scans.spectral_signatures import SpectralSignatures
from bezoar.scans.spectre import Spectre
from bezoar.scans.statistical_contamination import SCAn

MODEL_SCANS: Mapping[str, type[ModelScan]] = MappingProxyType(
    {"clp-scan": ChannelLipschitz, "mm-bd": MMBD, "neural-cleanse": NeuralCleanse}
)
DATA_SCANS: Mapping[str, type[DataScan]] = MappingProxyType(
    {
        "activation-clustering": ActivationClustering,
        "scan-em": SCAn,
        "spectral-signatures": SpectralSignatures,
        "spectre": Spectre,
    }
)

__all__ = [
    "DATA_SCANS",
    "MMBD",
    "MODEL_SCANS",
    "ActivationClustering",
    "ChannelLipschitz",
    "DataScan",
    "Finding",
    "ModelScan",
    "NeuralCleanse",
    "SCAn",
    "SpectralSignatures",
    "Spectre",
    "Triggers",
    "anomaly",
    "inverted",
]
