"""A small part of the real digits, and a network of a user's own that knows them a little."""

from copy import deepcopy
from typing import NamedTuple

import pytest
from torch import nn

from bezoar.defence import Evidence
from bezoar.models.initial import initialise
from bezoar.seeds import generator
from bezoar.training import Training
from bezoar.triggers import BadNets


@pytest.fixture(scope="session")
def evidence(digits) -> Evidence:
    """40 images to learn from and 40 to judge on; 40 is no multiple of the batch of 16.

    For those who ask: a trigger, and what the network was trained on.
    """
    trigger, suspects = BadNets(size=2).stamp, digits.train.first(60)
    return Evidence(digits.train.first(40), digits.validation.first(40), trigger, suspects)


@pytest.fixture(scope="session")
def _trained(digits) -> nn.Module:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 10))
    initialise(model, generator(0, "tests", "a user's network"))
    nn.init.ones_(model[1].weight)
    Training(epochs=4, batch=32, lr=0.01)(model, digits.train, digits.validation, seed=0)
    return model


@pytest.fixture
def network(_trained) -> nn.Module:
    """Batch norm and dropout; about 0.9 on clean digits. A copy for each test."""
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
