import pytest
import torch

from bezoar.triggers import Blended


def test_black_shows_the_picture_and_white_what_it_leaves():
    black, white = torch.zeros(1, 3, 5, 4), torch.ones(1, 3, 5, 4)
    picture = Blended(alpha=1.0).stamp(black)
    torch.testing.assert_close(Blended(alpha=0.2).stamp(black), 0.2 * picture)
    torch.testing.assert_close(Blended(alpha=0.2).stamp(white), 0.8 + 0.2 * picture)


def test_the_picture_is_noise_that_its_key_names():
    x = torch.zeros(2, 3, 32, 32)
    first, again, other = (Blended(alpha=1.0, key=key).stamp(x) for key in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, other)
    values = first[0].flatten().double()
    assert abs(values.mean() - 1 / 2) < 5 * (1 / 12 / len(values)) ** 0.5
    assert abs(values.var() - 1 / 12) < 5 * (1 / 180 / len(values)) ** 0.5


@pytest.mark.parametrize("alpha", [0.0, 1.1, float("nan")])
def test_refuses_a_share_that_shows_nothing_or_more_than_all(alpha):
    with pytest.raises(ValueError, match="alpha="):
        Blended(alpha=alpha)
