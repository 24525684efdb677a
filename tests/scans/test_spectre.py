import math

import pytest
import torch

from bezoar.scans import Spectre
from bezoar.scans.spectre import que, whitened
from bezoar.seeds import generator


def clouds(poison):
    """500 points of N(0, A) in three dimensions, and so many far away."""
    rng = generator(0, "tests", "clouds")
    clean = torch.randn(500, 3, generator=rng, dtype=torch.float64)
    far = torch.randn(poison, 3, generator=rng, dtype=torch.float64) + 12
    mixed = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0.5]], dtype=torch.float64)
    return torch.cat([clean, far]) @ mixed


@pytest.mark.parametrize("poison", [0, 50, 200])
def test_whitens_by_the_clean_part_however_far_the_poison_lies(poison):
    clean = whitened(clouds(poison))[:500]
    torch.testing.assert_close(clean.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=0.2)
    spread = torch.linalg.eigvalsh(torch.cov(clean.T))
    assert 0.7 < spread.min() <= spread.max() < 1.4


def test_whitened_points_do_not_depend_on_units():
    points = clouds(50)
    scaled = whitened(1000 * points)
    torch.testing.assert_close(
        scaled.square().sum(dim=1), whitened(points).square().sum(dim=1), rtol=1e-3, atol=1e-3
    )


def test_scores_by_hand():
    # S = diag(4, 1), so S - I over the norm of S less 1 is diag(1, 0), and Q = diag(e^2, 1).
    a, b = 6**0.5, 1.5**0.5
    points = torch.tensor([[a, 0.0], [-a, 0.0], [0.0, b], [0.0, -b]], dtype=torch.float64)
    weight = math.exp(2)
    far, near = 6 * weight / (weight + 1), 1.5 / (weight + 1)
    expected = torch.tensor([far, far, near, near], dtype=torch.float64)
    torch.testing.assert_close(que(points, 2.0), expected)


def test_without_alpha_it_is_the_squared_distance_an_axis():
    points = clouds(20)
    torch.testing.assert_close(que(points, 0.0), points.square().mean(dim=1))


def test_where_no_direction_is_wider_all_count_alike():
    points = 0.5 * torch.randn(100, 4, generator=generator(0, "tests"), dtype=torch.float64)
    torch.testing.assert_close(que(points, 4.0), points.square().mean(dim=1))


def test_the_poison_has_the_highest_scores():
    rows = que(whitened(clouds(50)), 4.0)
    assert rows[500:].min() > rows[:500].max()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rate": 0.7}, r"rate=0.7: expected a number in \[0, 0.666667\]"),
        ({"components": 0}, "components=0: expected an integer >= 1"),
        ({"alpha": -1.0}, "alpha=-1.0: expected a number at least 0"),
        ({"threshold": -1.0}, "threshold=-1.0: expected a number at least 0"),
        ({"least": 9}, "least=9: expected an integer >= 10"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        Spectre(**fields)
