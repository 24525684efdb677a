"""What all tests share: a repeatable profile, small classifiers, and the way to the real data."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from bezoar import data
from bezoar.data.imageset import DataSet
from bezoar.models import create
from bezoar.models.initial import initialise
from bezoar.seeds import generator
from bezoar.snapshots import Tree
from bezoar.training import Training

# A red run repeats: no random examples, no clock.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")

SHAPE = (1, 4, 5)  # not square, so that a swap of height and width shows
CLASSES = 3


# Small tensors are slower on two threads than on one, and one thread repeats bit by bit.
torch.set_num_threads(1)


@contextmanager
def _room(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``with full_disk(size)``: no file grows beyond so many bytes, writes fail as without room.

    Only inside the body: the test runner's own log may be a file too, and longer.
    """
    return _room


class Kept:
    """A place for a state in memory; the work is killed once it was kept for the k-th time."""

    def __init__(self, *kills: int) -> None:
        self.state: Tree | None = None
        self.saves, self._kills = 0, kills

    def load(self) -> Tree | None:
        return deepcopy(self.state)

    def save(self, state: Tree) -> None:
        self.state, self.saves = deepcopy(state), self.saves + 1
        if self.saves in self._kills:
            raise KeyboardInterrupt


@pytest.fixture
def kept() -> type[Kept]:
    """``kept(2, 3)`` is a snapshot whose owner is killed at the second save and at the third."""
    return Kept


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give a test marked ``threads(n)`` its n threads; all others have one."""
    marker = request.node.get_closest_marker("threads")
    torch.set_num_threads(marker.args[0] if marker else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; without one a test fails in CI and skips elsewhere."""
    found = os.environ.get("BEZOAR_DATA", "")
    if found and Path(found).is_dir():
        return Path(found).resolve()
    message = f"BEZOAR_DATA={found!r}: expected the folder of the real data sets; see docs/data.md"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    """The embedded digits, 1x8x8."""
    return data.load("digits")


@pytest.fixture(scope="session")
def few(digits) -> DataSet:
    """40 images in each part."""
    parts = {name: getattr(digits, name).first(40) for name in ("train", "validation", "test")}
    return replace(digits, **parts)


@pytest.fixture(scope="session")
def untrained(digits) -> nn.Module:
    """A network of digits that has learnt nothing; what a test calls does not change it."""
    return create("lenet-fig4", shape=digits.shape, classes=10, seed=0)


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
    """A user's own: batch norm and dropout; about 0.9 on clean digits. A copy for each test."""
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


def _filled(model: nn.Module, name: str) -> nn.Module:
    """Weights and biases from N(0, 1 / inputs), drawn from the stream ``tests/name``."""
    rng = generator(0, "tests", name)
    with torch.no_grad():
        for parameter in model.parameters():
            inputs = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / inputs**0.5)
    return model.eval()


@pytest.fixture
def linear() -> nn.Module:
    """Linear classifier of images ``(N, 1, 4, 5)`` into 3 classes, in eval mode."""
    return _filled(nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES)), "linear")


@pytest.fixture
def small_convnet() -> nn.Module:
    """One convolution and one linear layer: images ``(N, 1, 4, 5)`` to 3 logits, in eval mode."""
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))
    return _filled(nn.Sequential(*layers), "small convnet")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """12 images ``(12, 1, 4, 5)`` float32 in [0, 1], and their classes ``(12,)`` int64."""
    rng = generator(0, "tests", "batch")
    x = torch.rand(12, *SHAPE, generator=rng)
    return x, torch.arange(12) % CLASSES
