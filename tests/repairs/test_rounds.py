"""Logs of several parts, and what several parts promise when the work is interrupted."""

import pytest

from bezoar import trees
from bezoar.classifier import weights_hash
from bezoar.repairs import ANP, IMS, NAD, RNP, FinePruning
from bezoar.repairs.rounds import joined, now_and_then

PARTS = [
    ANP(iterations=6, batch=20, eps=1, alpha=0, momentum=0, lr=5),
    FinePruning(epochs=2, batch=20, tolerance=0.3),
    IMS(first=3, second=3, batch=20, steps=1),
    NAD(teacher_epochs=2, epochs=2, batch=20),
    RNP(unlearn_epochs=2, unlearn_lr=0.1, recover_epochs=2, alpha=1, batch=20, tolerance=0.95),
]


class OnDisk:
    """A state in a file; the work is killed after each time that it is kept, for so many times."""

    def __init__(self, path, kills):
        self.path, self.kills = path, kills

    def load(self):
        return trees.load(self.path) if self.path.exists() else None

    def save(self, state):
        trees.save(self.path, state)
        self.kills -= 1
        if self.kills >= 0:
            raise KeyboardInterrupt


def stubborn(repair, network, evidence, kept):
    """The repair, started again as often as it is killed; and how often that was."""
    killed = 0
    while True:
        try:
            return repair(network, evidence, seed=0, snapshot=kept), killed
        except KeyboardInterrupt:
            killed += 1


@pytest.mark.parametrize("repair", PARTS, ids=lambda repair: type(repair).__name__)
def test_goes_on_to_the_bit_wherever_it_is_killed(repair, network, evidence, tmp_path):
    whole = repair(network, evidence, seed=0)
    found, killed = stubborn(repair, network, evidence, OnDisk(tmp_path / "state", 100))
    assert killed >= 2
    assert weights_hash(found.classifier) == weights_hash(whole.classifier)
    rows, expected = (
        [{name: value for name, value in row.items() if name != "seconds"} for row in made.log]
        for made in (found, whole)
    )
    assert rows == expected
    assert found.cost.passes == whole.cost.passes


def test_rows_that_were_not_judged_are_left_out_and_the_others_numbered():
    first = [{"round": 0.0, "clean": 0.5}, {"round": 1.0}, {"round": 2.0, "clean": 0.6}]
    assert joined(first, [{"clean": 0.7}]) == [
        {"round": 0.0, "clean": 0.5, "part": 1.0},
        {"round": 1.0, "clean": 0.6, "part": 1.0},
        {"round": 2.0, "clean": 0.7, "part": 2.0},
    ]


@pytest.mark.parametrize(("epochs", "asked"), [(3, 4), (20, 21), (2000, 21)])
def test_many_epochs_are_judged_some_twenty_times(epochs, asked):
    judge = now_and_then(epochs, lambda: {"clean": 1.0})
    assert sum(bool(judge(epoch).row) for epoch in range(-1, epochs)) == asked
