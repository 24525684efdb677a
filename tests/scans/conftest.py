"""Trusted images, a network of a user's own that knows them a little, and a count of passes."""

from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.data.imageset import ImageSet
from bezoar.models.initial import initialise
from bezoar.seeds import generator
from bezoar.training import Training


@pytest.fixture(scope="session")
def trusted(digits) -> ImageSet:
    """30 images of the ten digits; 30 is no multiple of the batches of the cases."""
    return digits.train.first(30)


@pytest.fixture(scope="session")
def _trained(digits) -> nn.Module:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 10))
    initialise(model, generator(0, "tests", "a user's network"))
    nn.init.ones_(model[1].weight)
    few = digits.train.first(300)
    Training(epochs=4, batch=32, lr=0.01)(model, few, digits.validation.first(40), seed=0)
    return model


@pytest.fixture
def network(_trained) -> nn.Module:
    """Batch norm and dropout; better than chance on clean digits. A copy for each test."""
    return deepcopy(_trained)


class Passes(NamedTuple):
    """Images that went through a network, one entry a pass."""

    forward: list[int]
    backward: list[int]


@pytest.fixture
def counted(network) -> tuple[nn.Module, Passes]:
    """The network, and a count of its passes that goes on in its copies."""
    passes = Passes([], [])

    def note(module, inputs, logits):
        passes.forward.append(len(logits))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: passes.backward.append(len(gradient)))

    network.register_forward_hook(note)
    return network, passes


@pytest.fixture
def toy():
    """Images of any shape, with labels in turn, as a train split of K classes."""

    def make(x: torch.Tensor, classes: int) -> ImageSet:
        names = tuple("abcdefghij"[:classes])
        return ImageSet(x, torch.arange(len(x)) % classes, np.arange(len(x)), names, "toy/train")

    return make
