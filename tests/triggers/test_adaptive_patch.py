import pytest
import torch

from bezoar.seeds import generator
from bezoar.triggers import AdaptivePatch

KEYS = torch.randint(2**62, (200,), generator=generator(0, "tests", "keys"))


def corners(x):
    """The four corners of 2 x 2 pixels, ``(N, 4, C * 4)``."""
    return torch.stack([x[..., r, c].flatten(1) for r in ROWS for c in ROWS], dim=1)


ROWS = (slice(2), slice(-2, None))


def test_the_test_shows_all_four_patches_and_leaves_the_rest():
    x = torch.full((2, 3, 6, 7), 0.5)
    stamped = AdaptivePatch(size=2).stamp(x)
    assert (corners(stamped) != 0.5).all()
    assert set(corners(stamped).unique().tolist()) == {0, 1}
    assert (stamped != 0.5).sum() == 2 * 3 * 16


def test_in_training_each_image_shows_one_or_two_of_them_faintly():
    x = torch.full((200, 1, 6, 6), 0.5)
    trigger = AdaptivePatch(size=2, opacity=0.2)
    planted = trigger.plant(x, KEYS)
    seen = corners(planted) != 0.5
    assert torch.equal(seen.any(dim=2), seen.all(dim=2))
    number = seen.any(dim=2).sum(dim=1)
    assert set(number.tolist()) == {1, 2}
    assert abs(int((number == 1).sum()) - 100) < 5 * 50**0.5
    assert (seen.any(dim=2).sum(dim=0) > 40).all()
    change = (planted - x)[planted != x]
    torch.testing.assert_close(change, 0.2 * (trigger.stamp(x) - x)[planted != x])


def test_a_cover_is_what_poison_looks_like():
    x = torch.rand(4, 1, 9, 9, generator=generator(0, "x"))
    trigger = AdaptivePatch()
    assert torch.equal(trigger.cover(x, x.flip(0), KEYS[:4]), trigger.plant(x, KEYS[:4]))


def test_refuses_patches_that_would_overlap():
    with pytest.raises(ValueError, match=r"twice size=8 on images of 7x9: expected a trigger"):
        AdaptivePatch().stamp(torch.zeros(1, 1, 7, 9))
