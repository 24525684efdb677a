import pytest
import torch

from bezoar.triggers import BadNets


def test_white_square_in_the_corner_and_nothing_else():
    x = torch.full((2, 3, 6, 8), 0.5)
    expected = x.clone()
    expected[:, :, 3:, 5:] = 1
    assert torch.equal(BadNets().stamp(x), expected)


def test_checkerboard_has_white_in_the_very_corner():
    stamped = BadNets(size=3, pattern="checkerboard").stamp(torch.full((1, 1, 5, 5), 0.5))
    assert stamped[0, 0, 2:, 2:].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("pattern", ["white", "checkerboard"])
def test_stamping_twice_is_stamping_once(batch, pattern):
    once = BadNets(pattern=pattern).stamp(batch[0])
    assert torch.equal(BadNets(pattern=pattern).stamp(once), once)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (4, 4)])
def test_refuses_a_patch_that_leaves_nothing_of_the_image(shape):
    with pytest.raises(ValueError, match=r"size=4 on images of .*: expected a trigger smaller"):
        BadNets(size=4).stamp(torch.zeros(1, 1, *shape))


def test_refuses_settings_that_are_none():
    with pytest.raises(ValueError, match=r"size=0: expected an integer >= 1"):
        BadNets(size=0)
    with pytest.raises(ValueError, match=r"pattern 'whit'.*did you mean 'white'"):
        BadNets(pattern="whit")
