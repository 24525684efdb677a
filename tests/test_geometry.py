import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bezoar.geometry import (
    DISTANCES,
    chosen,
    direction_l2,
    l2_distance,
    linf_distance,
    linf_radius,
    norms_l2,
    project_l2,
    project_linf,
    wide,
)
from bezoar.seeds import generator

PROJECTIONS = {"linf": project_linf, "l2": project_l2}


def pair(seed, scale, dtype=torch.float32):
    """Two images in the box, and points at any distance from them."""
    rng = generator(seed, "tests")
    x = torch.rand(2, 1, 3, 4, generator=rng, dtype=dtype)
    return x, x + scale * torch.randn(x.shape, generator=rng, dtype=dtype)


@pytest.mark.parametrize("norm", ["linf", "l2"])
class TestProjection:
    @given(seed=st.integers(0, 2**31), eps=st.floats(0, 2), scale=st.floats(0, 100))
    def test_lands_in_ball_and_box_and_stays_put(self, norm, seed, eps, scale):
        x, far = pair(seed, scale)
        near = PROJECTIONS[norm](far, x, eps)
        assert DISTANCES[norm](near, x).max() <= eps + 1e-6
        assert ((near >= 0) & (near <= 1)).all()
        torch.testing.assert_close(PROJECTIONS[norm](near, x, eps), near, atol=1e-6, rtol=0)

    @given(seed=st.integers(0, 2**31), share=st.floats(0, 0.99))
    def test_moves_nothing_that_is_inside(self, norm, seed, share):
        x, _ = pair(seed, 0)
        inside = 0.5 + share * (x - 0.5)
        eps = DISTANCES[norm](inside, x).max().item() * 1.001
        torch.testing.assert_close(PROJECTIONS[norm](inside, x, eps), inside, atol=1e-6, rtol=0)

    def test_a_ball_without_radius_is_the_image(self, norm):
        x, far = pair(0, 10)
        assert torch.equal(PROJECTIONS[norm](far, x, 0), x)

    def test_keeps_shape_and_double_precision(self, norm):
        x, far = pair(0, 1, torch.float64)
        near = PROJECTIONS[norm](far, x, 0.1)
        assert near.shape == x.shape
        assert near.dtype == torch.float64


def test_linf_cuts_every_pixel_on_its_own():
    x = torch.full((1, 1, 1, 4), 0.5)
    far = torch.tensor([0.9, 0.55, 0.1, 0.5]).reshape(x.shape)
    expected = torch.tensor([0.6, 0.55, 0.4, 0.5]).reshape(x.shape)
    torch.testing.assert_close(project_linf(far, x, 0.1), expected)


def test_l2_shortens_the_change_and_keeps_its_direction():
    x = torch.full((1, 1, 1, 2), 0.5)
    far = x + torch.tensor([3.0, -4.0])
    torch.testing.assert_close(project_l2(far, x, 0.1), x + torch.tensor([0.06, -0.08]))


def test_each_image_has_its_own_ball():
    x = torch.full((2, 1, 1, 2), 0.5)
    far = x + torch.tensor([[3.0, -4.0], [0.03, 0.04]]).reshape(x.shape)
    near = project_l2(far, x, 0.1)
    torch.testing.assert_close(l2_distance(near, x), torch.tensor([0.1, 0.05]))


def test_distances_by_hand():
    x = torch.zeros(2, 1, 1, 2)
    x_adv = torch.tensor([[0.3, -0.4], [0.0, 0.0]]).reshape(x.shape)
    torch.testing.assert_close(linf_distance(x_adv, x), torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(l2_distance(x_adv, x), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(norms_l2(x_adv), torch.tensor([0.5, 0.0]).reshape(2, 1, 1, 1))


@pytest.mark.parametrize(("eps", "radius"), [(0, 0), (0.1, 0.1), (1, 1), (1.5, 1), (1e300, 1)])
def test_the_linf_radius_ends_where_the_ball_is_the_box(eps, radius):
    assert linf_radius(eps) == radius


@given(seed=st.integers(0, 2**31), power=st.integers(-37, 18))
def test_a_direction_has_length_1_however_small_the_gradient(seed, power):
    change = torch.randn(2, 1, 3, 4, generator=generator(seed, "tests"))
    expected = change / norms_l2(change)
    torch.testing.assert_close(direction_l2(change * 10.0**power), expected, atol=1e-4, rtol=0)


def test_nothing_has_no_direction():
    change = torch.zeros(1, 1, 2, 2)
    assert torch.equal(direction_l2(change), change)


class TestChosen:
    def test_is_a_choice_to_the_bit(self):
        draw = generator(0, "chosen")
        a, b = (
            torch.randn(50, 3, 4, 5, generator=draw)
            * 10 ** torch.randint(-30, 30, (50, 1, 1, 1), generator=draw).float()
            for _ in range(2)
        )
        a = a.where(a.abs() < 1e30, 1.0)
        which = torch.rand(50, generator=draw) < 0.5
        assert torch.equal(chosen(which, a, b), torch.where(wide(which), a, b))

    def test_takes_a_choice_of_pixels_too(self):
        a, b = torch.full((2, 3, 2, 2), 0.1), torch.full((2, 3, 2, 2), 0.7)
        which = torch.tensor([[True, False], [False, True]]).expand(2, 1, 2, 2)
        assert torch.equal(chosen(which, a, b), torch.where(which, a, b))
