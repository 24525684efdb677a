"""A detector against a trigger: who is asked, and what is counted."""

import numpy as np
import pytest
import torch
from torch import nn

from bezoar import suspicion
from bezoar.backdoors import triggered
from bezoar.data.imageset import ImageSet
from bezoar.detection import Judged, judged
from bezoar.suspicion import Suspicion
from bezoar.triggers import AllToOne, BadNets


class Wary(nn.Module):
    """Reads the class from the first row, or 1 under a white corner; suspects what is bright."""

    kind = "wary"

    def __init__(self):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.2))

    def forward(self, x):
        target = nn.functional.one_hot(torch.ones(len(x), dtype=torch.int64), 3)
        return x[:, 0, 0, :3] + 9 * x[:, 0, -1, -1:] * target

    def score(self, x):
        return x.flatten(1).mean(dim=1)


@pytest.fixture(scope="module")
def images():
    """60 dark images ``(1, 6, 6)`` of 3 classes in turn, whose first row says which."""
    labels = torch.arange(60) % 3
    pixels = torch.zeros(60, 1, 6, 6)
    pixels[torch.arange(60), 0, 0, labels] = 0.5
    return ImageSet(pixels, labels, np.arange(60), ("a", "b", "c"), "rows/test")


@pytest.fixture(scope="module")
def found(images):
    shown = triggered(images, BadNets(), AllToOne(1))
    return suspicion.measure(Wary(), images, shown, seed=0)


def scored(values, said, label):
    """What a detector with the threshold 0.5 says of images of class ``label``."""
    score = torch.tensor(values)
    label = torch.full((len(score),), label)
    return Judged(torch.zeros(len(score), 1, 1, 1), label, torch.tensor(said), score, score > 0.5)


@pytest.fixture(scope="module")
def made():
    """100 clean images of scores 0.00 to 0.99, and 4 triggered ones, 2 where they are wanted."""
    clean = scored([k / 100 for k in range(100)], [0] * 90 + [1] * 10, 0)
    return Suspicion(clean, scored([0.3, 0.97, 0.985, 2.0], [1, 1, 0, 2], 0), torch.ones(4).long())


def test_asks_all_clean_images_and_all_triggered_ones_of_other_classes(found):
    assert len(found.clean.score) == 60
    assert len(found.triggered.score) == 40
    assert found.triggered.label.unique().tolist() == [0, 2]
    assert found.asr.count == 40


def test_what_the_trigger_adds_is_told_from_every_clean_image(found):
    curve = found.curve()
    assert (curve.auc, curve.clean, curve.attacked) == (1, 60, 40)
    assert curve.low < 1
    assert [found.caught(fpr).count for fpr in (None, 0.05, 0.01)] == [40, 40, 40]
    assert found.accepted.count == 0


def test_a_rate_at_a_share_of_clean_images_is_that_of_the_lowest_threshold(made):
    # At 5 % the threshold is 0.94, at 1 % it is 0.98, and that of the detector 0.5.
    assert str(made.caught(0.05)).endswith("(3/4)")
    assert str(made.caught(0.01)).endswith("(2/4)")
    assert str(made.caught(0.0)).endswith("(1/4)")
    assert str(made.caught()).endswith("(3/4)")


def test_the_successful_ones_are_looked_at_apart(made):
    assert made.successful.tolist() == [True, True, False, False]
    assert str(made.caught(0.05, successful=True)).endswith("(1/2)")
    assert str(made.caught(0.01, successful=True)).endswith("(0/2)")
    assert made.curve(successful=True).attacked == 2
    # 30 clean images lie below 0.3 and one on it, 97 below 0.97 and one on it.
    assert made.curve(successful=True).auc == pytest.approx((30.5 + 97.5) / 200)


def test_what_gets_through_is_where_the_attacker_wants_it_and_not_rejected(made):
    assert (made.asr.count, made.accepted.count) == (2, 1)


def test_where_no_image_is_successful_there_is_nothing_to_say():
    none = Suspicion(scored([0.1], [0], 0), scored([0.9, 0.2], [0, 2], 0), torch.ones(2).long())
    assert none.curve(successful=True) is None
    assert none.caught(successful=True) is None
    assert none.caught(0.01, successful=True) is None
    assert none.curve().attacked == 2
    names = {row["metric"] for row in suspicion.rows(none, Wary(), seed=0)}
    assert not any(name.endswith("successful") for name in names)


def test_the_rows_name_every_number_once(made):
    table = {row["metric"]: row for row in suspicion.rows(made, Wary(), seed=3)}
    assert list(table) == [
        "clean",
        "false-alarms",
        "asr",
        "asr:accepted",
        "auc:triggered",
        "tpr@0.05:triggered",
        "tpr@0.01:triggered",
        "tpr:triggered",
        "auc:triggered-successful",
        "tpr@0.05:triggered-successful",
        "tpr@0.01:triggered-successful",
        "tpr:triggered-successful",
    ]
    assert {(row["case"], row["seed"]) for row in table.values()} == {("wary", 3)}
    assert (table["clean"]["value"], table["clean"]["n"]) == (0.9, 100)
    assert table["false-alarms"]["value"] == 0.49
    assert (table["tpr@0.05:triggered"]["value"], table["tpr@0.05:triggered"]["n"]) == (0.75, 4)
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in table.values())


def test_clean_images_that_were_judged_already_are_not_asked_again(images):
    class Counted(Wary):
        asked = 0

        def score(self, x):
            self.asked += len(x)
            return super().score(x)

    model, shown = Counted(), triggered(images, BadNets(), AllToOne(1))
    clean = judged(model, images.batch(slice(None))[0], images, seed=0)
    found = suspicion.measure(model, images, shown, seed=0, clean=clean)
    assert found.clean is clean
    assert model.asked == 60 + 40


def test_refuses_a_classifier_that_is_no_detector(images):
    shown = triggered(images, BadNets(), AllToOne(1))
    with pytest.raises(TypeError, match="Sequential without score and threshold: expected a"):
        suspicion.measure(nn.Sequential(), images, shown, seed=0)
