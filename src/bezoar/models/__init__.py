"""Networks, one file a family. Each is a classifier and can tell how it was made."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from bezoar import checks
from bezoar.classifier import device_of
from bezoar.models.answers import Certainty, Constancy, Sureness
from bezoar.models.autoencoder import Autoencoder
from bezoar.models.ensemble import Ensemble
from bezoar.models.fields import Shape
from bezoar.models.ibd_psc import IBDPSC
from bezoar.models.initial import initialise
from bezoar.models.jpeg import JPEG
from bezoar.models.lenet import LeNet5, LeNet6x16, LeNet32x64
from bezoar.models.magnet import MagNet, Reformer
from bezoar.models.preact_resnet import PreActResNet
from bezoar.models.projection import Projection
from bezoar.models.purified import Purified
from bezoar.models.puvae import ConditionalVAE
from bezoar.models.resized import Resized
from bezoar.models.scale_up import ScaleUp
from bezoar.models.small import SmallNet
from bezoar.models.smoothed import Smoothed
from bezoar.models.squeezed import Disagreement, Squeezed
from bezoar.models.squeezers import BitDepth, MedianFilter, NonLocalMeans
from bezoar.models.strip import STRIP
from bezoar.models.uncertain import Uncertain
from bezoar.models.user import from_factory
from bezoar.models.variational import VariationalAutoencoder
from bezoar.models.vgg import VGG, ShallowVGG
from bezoar.seeds import derive, generator

MODELS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "lenet5": LeNet5,
        "lenet-fig3": LeNet32x64,
        "lenet-fig4": LeNet6x16,
        "small-net": SmallNet,
        "preact-resnet": PreActResNet,
        "vgg": VGG,
        "vgg-8conv": ShallowVGG,
    }
)

# What a model file may hold besides: parts of a classifier, and what joins parts.
PARTS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "autoencoder": Autoencoder,
        "bit-depth": BitDepth,
        "certainty": Certainty,
        "constancy": Constancy,
        "disagreement": Disagreement,
        "jpeg": JPEG,
        "median-filter": MedianFilter,
        "non-local-means": NonLocalMeans,
        "projection": Projection,
        "puvae": ConditionalVAE,
        "reformer": Reformer,
        "resized": Resized,
        "sureness": Sureness,
        "variational-autoencoder": VariationalAutoencoder,
    }
)
JOINED: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "ibd-psc": IBDPSC,
        "magnet": MagNet,
        "purified": Purified,
        "scale-up": ScaleUp,
        "smoothed": Smoothed,
        "squeezed": Squeezed,
        "strip": STRIP,
        "uncertain": Uncertain,
    }
)


def create(kind: str, *, shape: Shape, classes: int, seed: int, **fields: Any) -> nn.Module:
    """Make an untrained network; its weights depend on (seed, kind, sizes) alone.

    Torch's global random state is neither read nor changed.

    Args:
        kind: name in ``MODELS``.
        shape: channels, height and width of an image.
        classes: number of logits.
        seed: of the run; the weights are drawn from its stream "init/KIND".
        fields: further arguments of the network, for example ``mean`` and ``std``.

    Raises:
        ValueError: unknown kind, or arguments that the network refuses.
    """
    checks.known("model", kind, MODELS)
    with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from it
        model = MODELS[kind](shape=shape, classes=classes, **fields)
    initialise(model, generator(seed, "init", kind))
    return model


def restart(model: nn.Module, *, seed: int) -> None:
    """Give a network new initial weights, in place; torch's global random state is left alone.

    One of ``MODELS`` is initialised as ``create`` does it. Of any other module, every layer with
    a ``reset_parameters`` starts again as torch does it; a layer without one keeps its weights.

    Raises:
        ValueError: no layer can be started again.
    """
    if type(model) in MODELS.values():
        initialise(model, generator(seed, "restart"))
        return
    resets: list[Any] = [
        module.reset_parameters for module in model.modules() if hasattr(module, "reset_parameters")
    ]
    if not resets:
        lack = f"{type(model).__name__} has no layer with reset_parameters"
        raise ValueError(f"{lack}: expected one; train it from scratch yourself")
    device = device_of(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "restart"))
        for reset in resets:
            reset()


__all__ = [
    "IBDPSC",
    "JOINED",
    "JPEG",
    "MODELS",
    "PARTS",
    "STRIP",
    "VGG",
    "Autoencoder",
    "BitDepth",
    "Certainty",
    "ConditionalVAE",
    "Constancy",
    "Disagreement",
    "Ensemble",
    "LeNet5",
    "LeNet6x16",
    "LeNet32x64",
    "MagNet",
    "MedianFilter",
    "NonLocalMeans",
    "PreActResNet",
    "Projection",
    "Purified",
    "Reformer",
    "Resized",
    "ScaleUp",
    "ShallowVGG",
    "SmallNet",
    "Smoothed",
    "Squeezed",
    "Sureness",
    "Uncertain",
    "VariationalAutoencoder",
    "create",
    "from_factory",
    "restart",
]
