import pytest
import torch

from bezoar.augment import Augment


def images(count=200):
    x = torch.zeros(count, 2, 5, 6)
    x[:, :, 2, 3] = 1.0
    return x


def test_a_pixel_is_moved_by_at_most_the_shift_and_to_every_place_in_reach():
    torch.manual_seed(0)
    made = Augment(shift=2)(images(400))
    assert made.shape == (400, 2, 5, 6)
    _, rows, columns = (made[:, 0] == 1).nonzero(as_tuple=True)
    assert sorted({*rows.tolist()}) == [0, 1, 2, 3, 4]
    assert sorted({*columns.tolist()}) == [1, 2, 3, 4, 5]
    assert torch.equal(made[:, 0], made[:, 1])


def test_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    made = Augment(flip=True)(images(1000))
    assert 0.4 < (made[:, 0, 2, 2] == 1).double().mean() < 0.6
    assert ((made[:, 0, 2, 2] == 1) | (made[:, 0, 2, 3] == 1)).all()


def test_without_either_nothing_is_drawn_or_changed():
    x, state = images(), torch.get_rng_state()
    assert Augment()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_refuses_a_negative_shift():
    with pytest.raises(ValueError, match="shift=-1: expected"):
        Augment(shift=-1)
