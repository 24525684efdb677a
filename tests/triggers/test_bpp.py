import pytest
import torch

from bezoar.triggers import Bpp


def test_rounds_to_the_nearest_level():
    x = torch.tensor([0.0, 0.16, 0.17, 0.4, 0.6, 0.9, 1.0]).reshape(1, 1, 1, 7)
    thirds = torch.tensor([0, 0, 1, 1, 2, 3, 3]) / 3
    torch.testing.assert_close(Bpp(levels=4).stamp(x).flatten(), thirds)


@pytest.mark.parametrize("levels", [2, 8, 33])
def test_is_idempotent_and_never_further_than_half_a_level(levels, batch):
    x = batch[0]
    once = Bpp(levels=levels).stamp(x)
    assert len(once.unique()) <= levels
    assert (once - x).abs().max() <= 0.5 / (levels - 1) + 1e-6
    torch.testing.assert_close(Bpp(levels=levels).stamp(once), once)


def test_a_cover_carries_the_error_of_the_other_image():
    x, other = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.9)
    expected = torch.full((1, 1, 2, 2), 0.6)  # 0.9 becomes 1
    torch.testing.assert_close(
        Bpp(levels=2).cover(x, other, torch.zeros(1, dtype=torch.int64)), expected
    )


@pytest.mark.parametrize("levels", [1, 129])
def test_refuses_levels_that_are_none_or_too_many_to_see(levels):
    with pytest.raises(ValueError, match=f"levels={levels}"):
        Bpp(levels=levels)
