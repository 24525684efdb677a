import pytest
import torch

from bezoar.seeds import generator
from bezoar.triggers import WaNet


def ramps(height, width):
    """Two images whose values are the place of the pixel: along a row, and down a column."""
    across = torch.linspace(0, 1, width).expand(1, height, width)
    down = torch.linspace(0, 1, height)[:, None].expand(1, height, width)
    return torch.stack([across, down])


def test_a_ramp_shows_where_each_pixel_came_from():
    x = ramps(7, 9)
    trigger = WaNet(strength=1.0)
    places = (trigger.field(x)[0].permute(2, 0, 1)[:, None] + 1) / 2
    torch.testing.assert_close(trigger.stamp(x), places)
    assert not torch.allclose(places, x, atol=1e-2)


def test_one_color_stays_as_it_is():
    x = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(WaNet(strength=2.0).stamp(x), x)


def test_the_field_has_the_strength_on_average_where_nothing_is_interpolated():
    x = torch.zeros(1, 1, 6, 6)
    own = WaNet(grid=6, strength=0.01).field(x) - WaNet(grid=6, strength=0.02).field(x)
    inner = own[0, 1:-1, 1:-1].abs() * 6 / 0.01  # at the edges the field is cut
    u = 2 * torch.rand(1, 2, 6, 6, generator=generator(0, "warp")) - 1
    expected = (u / u.abs().mean())[0, :, 1:-1, 1:-1].permute(1, 2, 0).abs()
    torch.testing.assert_close(inner, expected, atol=1e-3, rtol=1e-3)


def test_a_stronger_warp_goes_further():
    x = ramps(8, 8)
    moved = [(WaNet(strength=s).stamp(x) - x).abs().mean() for s in (0.25, 0.5, 1.0)]
    assert moved == sorted(moved)


def test_a_cover_is_warped_by_another_field_for_each_image():
    x = ramps(8, 8)[:1].expand(3, -1, -1, -1)
    trigger = WaNet()
    covers = trigger.cover(x, x, torch.tensor([1, 2, 1]))
    assert torch.equal(covers[0], covers[2])
    assert not torch.equal(covers[0], covers[1])
    away = (covers - trigger.stamp(x)).abs()
    assert 0 < away.max() <= 0.5 / 8 + 1e-6  # e / W in a grid of length 2


def test_refuses_a_grid_finer_than_the_image():
    with pytest.raises(ValueError, match=r"grid=4 on images of 3x8: expected no more points"):
        WaNet().stamp(torch.zeros(1, 1, 3, 8))
