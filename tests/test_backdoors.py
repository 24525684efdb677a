import numpy as np
import pytest
import torch
from torch import nn

from bezoar.backdoors import Facts, der, fall, measure, triggered
from bezoar.data.imageset import ImageSet
from bezoar.results import Rate
from bezoar.triggers import AllToAll, AllToOne, BadNets


@pytest.fixture
def images():
    """60 dark images ``(1, 6, 6)`` of 8 bits, of 3 classes in turn, whose first row says which."""
    labels = torch.arange(60) % 3
    pixels = torch.zeros(60, 1, 6, 6, dtype=torch.uint8)
    pixels[torch.arange(60), 0, 0, labels] = 200
    return ImageSet(pixels, labels, np.arange(60), ("a", "b", "c"), "rows/test")


class Backdoored(nn.Module):
    """Reads the class from the first row, unless the corner is white: then it says ``target``."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, x):
        target = nn.functional.one_hot(torch.full((len(x),), self.target), 3)
        return x[:, 0, 0, :3] + 9 * x[:, 0, -1, -1:] * target


def facts(right, sent, named, total=100):
    """Facts of ``total`` clean and as many triggered images, by how many are which."""
    ones, zeros = np.ones(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    clean = np.where(np.arange(total) < right, 1, 2)
    stamped = np.where(np.arange(total) < sent, 0, np.where(np.arange(total) < sent + named, 1, 2))
    return Facts(
        label=ones, clean=clean, index=np.arange(total), true=ones, wanted=zeros, stamped=stamped
    )


def test_the_stamped_set_leaves_the_target_class_out_and_keeps_the_true_labels(images):
    shown = triggered(images, BadNets(), AllToOne(1))
    assert shown.images.labels.unique().tolist() == [0, 2]
    assert (shown.wanted == 1).all()
    assert (shown.images.index == np.flatnonzero(images.labels.numpy() != 1)).all()
    assert (shown.images.pixels[:, :, 3:, 3:] == 255).all()


def test_all_to_all_stamps_every_image(images):
    shown = triggered(images, BadNets(), AllToAll())
    assert len(shown.images) == 60
    assert torch.equal(shown.wanted, (images.labels + 1) % 3)


def test_a_planted_backdoor_is_seen_whole_and_a_clean_network_has_none(images):
    shown = triggered(images, BadNets(), AllToOne(1))
    sick = measure(Backdoored(1), images, shown)
    assert (sick.accuracy, sick.asr, sick.ra) == (Rate(60, 60), Rate(40, 40), Rate(0, 40))
    well = measure(nn.Sequential(Blind(), Backdoored(1)), images, shown)
    assert (well.accuracy, well.asr, well.ra) == (Rate(60, 60), Rate(0, 40), Rate(40, 40))


class Blind(nn.Module):
    """Cuts the trigger off."""

    def forward(self, x):
        return x * (torch.arange(6) < 3)


def test_what_is_no_number_is_neither_right_nor_where_the_attacker_wants(images):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), float("nan"))

    found = measure(Broken(), images, triggered(images, BadNets(), AllToOne(0)))
    assert (found.accuracy.count, found.asr.count, found.ra.count) == (0, 0, 0)


@pytest.mark.parametrize("aim", [AllToOne(0), AllToAll()])
def test_success_and_robust_accuracy_share_the_images(images, aim):
    found = measure(Backdoored(2), images, triggered(images, BadNets(), aim))
    assert found.asr.count + found.ra.count <= found.asr.total


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (facts(90, 80, 10), facts(90, 80, 10), 0.5),  # nothing was done
        (facts(90, 100, 0), facts(90, 0, 90), 1.0),  # the backdoor alone went
        (facts(90, 100, 0), facts(70, 0, 90), 0.9),
        (facts(100, 50, 0), facts(0, 50, 0), 0.0),  # the accuracy alone went
        (facts(80, 50, 0), facts(90, 60, 0), 0.5),  # what rises counts as 0
    ],
)
def test_the_rating_of_a_repair_by_hand(before, after, expected):
    rated = der(before, after)
    assert rated.value == pytest.approx(expected)
    assert 0 <= rated.low <= rated.value <= rated.high <= 1


def test_more_images_narrow_the_interval():
    few = der(facts(90, 90, 0), facts(80, 10, 80))
    many = der(facts(9000, 9000, 0, 10000), facts(8000, 1000, 8000, 10000))
    assert few.value == pytest.approx(many.value)
    assert many.high - many.low < (few.high - few.low) / 5


def test_the_interval_of_a_fall_is_newcombes():
    # Newcombe (1998), table II, column (a): 56/70 and 48/80, method 10.
    found = fall(Rate(56, 70), Rate(48, 80))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )


def test_refuses_to_compare_other_images(images):
    one, other = (
        measure(Backdoored(1), images, triggered(images, BadNets(), AllToOne(t))) for t in (0, 1)
    )
    with pytest.raises(ValueError, match="expected the same triggered images"):
        der(one, other)


def test_refuses_a_test_set_of_the_target_class_alone(images):
    part = images.take(np.flatnonzero(images.labels.numpy() == 0))
    with pytest.raises(ValueError, match=r"no image of another class"):
        triggered(part, BadNets(), AllToOne(0))
