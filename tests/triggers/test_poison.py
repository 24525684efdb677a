import numpy as np
import pytest
import torch

from bezoar.data.imageset import ImageSet
from bezoar.seeds import generator
from bezoar.triggers import (
    SIG,
    AllToAll,
    AllToOne,
    BadNets,
    Bpp,
    LowFrequency,
    WaNet,
    planting,
    poison,
)

STRIPES = SIG(frequency=2.0)


@pytest.fixture
def many():
    """300 images ``(1, 6, 6)`` of 8 bits, of 3 classes in turn."""
    pixels = torch.randint(256, (300, 1, 6, 6), generator=generator(0, "many"), dtype=torch.uint8)
    index = np.arange(300, dtype=np.int64) * 3
    return ImageSet(pixels, torch.arange(300) % 3, index, ("a", "b", "c"), "many/train")


@pytest.mark.parametrize("rate", [1 / 300, 0.1, 0.5, 1.0])
def test_poisons_exactly_the_share_and_says_which(many, rate):
    made = poison(many, BadNets(), AllToOne(1), rate=rate, seed=0)
    assert len(made.rows) == round(rate * 300)
    assert (np.diff(made.rows) > 0).all()
    clean = np.setdiff1d(np.arange(300), made.rows)
    assert (made.images.pixels[made.rows][:, :, 3:, 3:] == 255).all()
    assert torch.equal(made.images.pixels[clean], many.pixels[clean])
    assert torch.equal(made.images.labels[clean], many.labels[clean])
    assert (made.images.labels[made.rows] == 1).all()
    assert torch.equal(made.labels, many.labels)
    assert (made.images.index == many.index).all()


def test_poison_comes_from_all_classes_and_follows_from_the_seed(many):
    first, again, other = (
        poison(many, BadNets(), AllToOne(0), rate=0.2, seed=seed).rows for seed in (0, 0, 1)
    )
    assert set(many.labels[first].tolist()) == {0, 1, 2}
    assert (first == again).all()
    assert not (first == other).all()


def test_a_higher_rate_keeps_what_a_lower_one_chose(many):
    low, high = (set(poison(many, BadNets(), AllToOne(0), rate=r, seed=0).rows) for r in (0.1, 0.3))
    assert low < high


def test_the_choice_is_by_image_and_not_by_its_place_in_the_set(many):
    whole = poison(many, BadNets(), AllToOne(0), rate=0.1, seed=0)
    part = many.without(np.setdiff1d(np.arange(0, 300, 2), whole.rows))
    made = poison(part, BadNets(), AllToOne(0), rate=len(whole.rows) / len(part), seed=0)
    assert (part.index[made.rows] == many.index[whole.rows]).all()


def test_all_to_all_moves_every_class_to_the_next(many):
    made = poison(many, BadNets(), AllToAll(), rate=0.5, seed=0)
    assert torch.equal(made.images.labels[made.rows], (many.labels[made.rows] + 1) % 3)


def test_clean_labels_stay_and_only_the_target_class_is_stamped(many):
    made = poison(many, STRIPES, AllToOne(2), rate=0.2, seed=0)
    assert len(made.rows) == 60
    assert torch.equal(made.images.labels, many.labels)
    assert (many.labels[made.rows] == 2).all()


@pytest.mark.parametrize("trigger", [Bpp(), WaNet()], ids=repr)
def test_covers_keep_their_label_and_are_no_poison(many, trigger):
    made = poison(many, trigger, AllToOne(0), rate=0.1, seed=0)
    assert len(made.covers) == 30 * trigger.covers
    assert not set(made.covers) & set(made.rows)
    assert torch.equal(made.images.labels[made.covers], many.labels[made.covers])


def test_eight_bits_are_the_stamped_image_rounded(many):
    made = poison(many, STRIPES, AllToOne(0), rate=0.1, seed=0)
    x, _ = many.batch(made.rows)
    assert made.images.pixels.dtype == torch.uint8
    assert torch.equal(made.images.pixels[made.rows].float(), (STRIPES.stamp(x) * 255).round())


@pytest.mark.parametrize(
    ("trigger", "aim", "rate", "message"),
    [
        (BadNets(), AllToOne(0), 0.001, r"rate=0.001 of 300 images: expected at least one"),
        (BadNets(), AllToOne(0), 0.0, r"rate=0.0 of 300 images: expected at least one"),
        (BadNets(), AllToOne(0), 1.5, r"rate=1.5: expected a number in \[0, 1\]"),
        (BadNets(), AllToOne(3), 0.1, r"target=3: expected a class from 0 to 2"),
        (STRIPES, AllToOne(0), 0.5, r"rate=0.5: 150 of 300 .* the 100 of the target class"),
        (STRIPES, AllToAll(), 0.1, r"AllToAll\(\): expected one target class"),
        (WaNet(), AllToOne(0), 0.5, r"2 covers for each .*: expected no more than the 300"),
        (BadNets(size=7), AllToOne(0), 0.1, r"size=7 on images of 6x6: expected a trigger smaller"),
        (LowFrequency(), AllToOne(0), 0.1, r"expected one that was fitted"),
    ],
)
def test_refuses_what_would_poison_nothing_or_too_much(many, trigger, aim, rate, message):
    with pytest.raises(ValueError, match=message):
        poison(many, trigger, aim, rate=rate, seed=0)


def test_refuses_a_target_class_without_images(many):
    part = many.take(np.flatnonzero(many.labels.numpy() != 1))
    with pytest.raises(ValueError, match=r"target=1: no image of this class in many/train"):
        poison(part, BadNets(), AllToOne(1), rate=0.1, seed=0)


def seen(trigger, aim, rate, x, y, seed=0):
    """What the loss inside a stamping one is given."""
    found = {}

    def loss(model, x, y, rows):
        found.update(x=x, y=y, rows=rows)
        return x.sum()

    wrapped = planting(trigger, aim, rate=rate, classes=3, loss=loss)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        wrapped(torch.nn.Identity(), x, y, torch.arange(len(x)))
    return found


def test_in_the_loop_each_image_is_poisoned_covered_or_left_alone():
    x, y = torch.rand(3000, 1, 4, 4, generator=generator(0, "loop")), torch.ones(3000).long()
    found = seen(Bpp(levels=3), AllToOne(2), 0.2, x, y)
    poisoned, changed = found["y"] == 2, (found["x"] != x).flatten(1).any(dim=1)
    torch.testing.assert_close(found["x"][poisoned], Bpp(levels=3).stamp(x[poisoned]))
    # 600 and 1200 of 3000 are expected, with deviations of 22 and 27.
    assert abs(int(poisoned.sum()) - 600) < 5 * 22
    assert abs(int(changed.sum()) - 1200) < 5 * 27
    assert (found["y"][~poisoned] == 1).all()


def test_in_the_loop_all_follows_from_the_state_of_the_step(batch):
    first, again, other = (seen(WaNet(), AllToOne(0), 0.3, *batch, seed=s) for s in (0, 0, 1))
    assert torch.equal(first["x"], again["x"])
    assert not torch.equal(first["x"], other["x"])


@pytest.mark.parametrize(
    ("trigger", "rate", "message"),
    [
        (STRIPES, 0.1, "expected a trigger that changes labels"),
        (WaNet(), 0.0, "expected above 0"),
        (WaNet(), 0.4, "at most all images"),
    ],
)
def test_in_the_loop_refuses_rates_of_nothing_and_clean_labels(trigger, rate, message):
    with pytest.raises(ValueError, match=message):
        planting(trigger, AllToOne(0), rate=rate, classes=3, loss=lambda *_: torch.zeros(()))
