"""An attack that is interrupted goes on, to the bit, from the last snapshot."""

import numpy as np
import pytest
import torch
from torch import nn

from bezoar import trees
from bezoar.attacks import (
    APGD,
    CWL2,
    DDN,
    FMN,
    PGD,
    AutoAttack,
    Boundary,
    FABTargeted,
    HopSkipJump,
    Square,
    Untargeted,
)
from bezoar.attacks.engine import search, shrink
from bezoar.classifier import prepare
from bezoar.seeds import Noise, generator
from bezoar.snapshots import Part


class Killed(Exception):
    """What stands for a power cut."""


class Place:
    """A file; the process dies after so many saves."""

    def __init__(self, path, saves=10**9):
        self.path, self.saves, self.count = path, saves, 0

    def load(self):
        return trees.load(self.path) if self.path.exists() else None

    def save(self, state):
        trees.save(self.path, state)
        self.count += 1
        if self.count == self.saves:
            raise Killed


@pytest.fixture
def case():
    """Twenty images in colour, some of which fall soon, and a network with convolutions."""
    rng = generator(0, "tests", "snapshots")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 5, 4))
    for value in model.parameters():
        value.data.copy_(torch.randn(value.shape, generator=rng) / 3)
    x = torch.rand(20, 3, 6, 7, generator=rng)
    return prepare(model), x, Untargeted(model(x).argmax(dim=1))


ATTACKS = [
    PGD(eps=0.02, steps=9, restarts=2),
    APGD(eps=0.02, steps=9),
    Square(eps=0.02, steps=30),
    AutoAttack(eps=0.02, steps=5, targets=2, queries=9),
]
SAME = ("x_adv", "first_success", "forward", "backward", "zero_gradient")


NEAREST = [
    DDN(steps=9),
    FMN(norm="l1", steps=9),
    CWL2(steps=20),
    FABTargeted(steps=5, restarts=2),
    HopSkipJump(steps=5),
    Boundary(steps=20),
]


def run(attack, case, place=None):
    model, x, goal = case
    noise = Noise.first(0, "tests", np.arange(len(x)))
    way = shrink if attack in NEAREST else search
    return way(
        attack, model, x, goal, noise, batch=8, snapshot=place, snapshot_seconds=0 if place else 60
    )


@pytest.mark.parametrize("attack", [*ATTACKS, *NEAREST], ids=repr)
@pytest.mark.parametrize("saves", [1, 2, 7, 13])
def test_goes_on_to_the_bit(attack, saves, case, tmp_path):
    whole = run(attack, case)
    assert 0 < (whole.first_success < 0).sum() < 20 or attack in NEAREST
    with pytest.raises(Killed):
        run(attack, case, Place(tmp_path / "state", saves))
    again = run(attack, case, Place(tmp_path / "state"))
    for name in SAME:
        assert torch.equal(getattr(again, name), getattr(whole, name))


@pytest.mark.parametrize("attack", [PGD(eps=0.02, steps=9), DDN(steps=9)], ids=repr)
def test_does_not_do_again_what_was_done(attack, case, tmp_path):
    counted = []
    model, *_ = case
    model.register_forward_hook(lambda module, inputs, output: counted.append(len(inputs[0])))
    run(attack, case)
    whole = sum(counted)
    counted.clear()
    with pytest.raises(Killed):
        run(attack, case, Place(tmp_path / "state", 13))
    run(attack, case, Place(tmp_path / "state"))
    assert sum(counted) <= whole + 8  # at most the step after the last snapshot


def test_the_state_of_a_part_is_kept_within_the_whole(tmp_path):
    place = Place(tmp_path / "state")
    part = Part(place, {"part": 3}, None)
    assert part.load() is None
    part.save({"age": 5})
    assert place.load() == {"part": 3, "inside": {"age": 5}}
    assert Part(place, {}, place.load()["inside"]).load() == {"age": 5}
