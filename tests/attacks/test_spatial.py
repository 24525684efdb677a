import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import Spatial, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.losses import margin
from bezoar.attacks.spatial import transformed
from bezoar.geometry import l2_distance
from bezoar.seeds import Noise

X = torch.rand(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
NOISE = Noise.first(0, "tests", np.arange(8))
ONES = Untargeted(torch.ones(8, dtype=torch.int64))


def turned(x, angle):
    return transformed(x, torch.full((len(x),), float(angle)), torch.zeros(len(x), 2))


def test_no_rotation_and_no_translation_is_the_image():
    torch.testing.assert_close(turned(X, 0), X)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_of_a_square_move_pixels_to_pixels(quarters):
    square = X[:, :, :, :6]
    expected = torch.rot90(square, quarters, dims=(2, 3))
    torch.testing.assert_close(turned(square, 90 * quarters), expected, atol=1e-5, rtol=0)


def test_a_half_turn_of_any_image_moves_pixels_to_pixels():
    torch.testing.assert_close(turned(X, 180), X.flip(2, 3), atol=1e-5, rtol=0)


def test_a_quarter_turn_keeps_lengths_where_the_sides_differ():
    # A horizontal bar of 4 by 2 pixels about the centre becomes a vertical one.
    bar = torch.zeros(1, 1, 6, 8)
    bar[:, :, 2:4, 2:6] = 1
    upright = torch.zeros(1, 1, 6, 8)
    upright[:, :, 1:5, 3:5] = 1
    torch.testing.assert_close(turned(bar, 90), upright, atol=1e-5, rtol=0)


def test_a_translation_by_whole_pixels_moves_them_and_leaves_black():
    shift = torch.tensor([[2 / 8, 1 / 6]]).expand(3, 2)
    expected = torch.zeros_like(X)
    expected[:, :, 1:, 2:] = X[:, :, :-1, :-2]
    found = transformed(X, torch.zeros(3), shift)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_rotates_first_and_moves_then():
    dot = torch.zeros(1, 1, 7, 7)
    dot[0, 0, 3, 5] = 1  # two to the right of the centre: two above it once turned
    moved = torch.zeros(1, 1, 7, 7)
    moved[0, 0, 1, 4] = 1  # and one to the right
    found = transformed(dot, torch.tensor([90.0]), torch.tensor([[1 / 7, 0.0]]))
    torch.testing.assert_close(found, moved, atol=1e-5, rtol=0)


def test_between_pixels_it_interpolates():
    shift = torch.tensor([[0.5 / 8, 0.0]]).expand(3, 2)
    found = transformed(X, torch.zeros(3), shift)
    between = (X[:, :, :, :-1] + X[:, :, :, 1:]) / 2
    torch.testing.assert_close(found[:, :, :, 1:], between, atol=1e-5, rtol=0)


@pytest.fixture
def border():
    """A classifier that reads one pixel of a bright 5 by 5 square: moving it away fools it."""
    layer = nn.Linear(81, 2)
    layer.weight.data.zero_()
    layer.weight.data[1, 4 * 9 + 6] = 1
    layer.bias.data = torch.tensor([0.5, 0.0])
    x = torch.zeros(8, 1, 9, 9)
    x[:, :, 2:7, 2:7] = 1
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False), x


def test_finds_the_translation_that_fools(border):
    # The pixel is the outermost of the square: it loses half its light when moved by half a pixel.
    model, x = border
    far = search(Spatial(angle=0, shift=0.2, steps=30), model, x, ONES, NOISE)
    near = search(Spatial(angle=0, shift=0.49 / 9, steps=30), model, x, ONES, NOISE)
    assert (far.first_success >= 0).all()
    assert (near.first_success == -1).all()


def test_the_worst_of_more_is_never_better(blocks, images):
    last = torch.full((8,), -torch.inf)
    for steps in (1, 3, 9, 27):
        found = perturb(Spatial(steps=steps), blocks, images, ONES, NOISE)
        value = margin(blocks(found.x_adv), ONES)
        assert (value >= last).all()
        last = value


def test_tries_no_more_than_angle_and_shift_allow():
    # Light that moves no further than the black frame is wide is never lost.
    x = torch.zeros(8, 1, 20, 20)
    x[:, :, 8:12, 8:12] = 1
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            seen.append(images)
            return torch.stack([images.sum((1, 2, 3)), torch.zeros(len(images))], dim=1)

    perturb(Spatial(angle=0, shift=0.2, steps=40), Watched(), x, ONES, NOISE)
    total = torch.stack(seen).sum(dim=(2, 3, 4))
    torch.testing.assert_close(total, torch.full_like(total, 16.0), atol=1e-3, rtol=0)
    place = torch.arange(20.0) - 9.5
    moved = torch.stack(seen).sum(dim=(2, 3)) @ place / 16
    assert moved.abs().max() <= 4 + 1e-4
    assert moved.abs().max() > 3.5
    assert abs(moved.mean()) < 0.7


def test_asks_for_scores_only(blocks, images):
    found = perturb(Spatial(steps=7), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [8] * 8
    assert found.backward.tolist() == [0] * 8


@pytest.mark.parametrize(("name", "value"), [("angle", -1), ("angle", 181), ("shift", 1.5)])
def test_refuses_what_is_no_transformation(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: expected a number in"):
        Spatial(**{name: value})


def test_keeps_what_lies_in_the_radius_only(blocks, images):
    whole = perturb(Spatial(steps=30), blocks, images, ONES, NOISE).x_adv
    near = perturb(Spatial(eps=0.4, steps=30, angle=10, shift=0.1), blocks, images, ONES, NOISE)
    assert l2_distance(whole, images).max() > 0.8
    assert 0.1 < l2_distance(near.x_adv, images).max() <= 0.4
