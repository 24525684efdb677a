import math

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.scans import MMBD
from bezoar.scans.mm_bd import judged, margins_of

LEVEL = -math.log10(0.05)


def blocks(scales):
    """Class k reads its own row of images of 4x4: at most 4 times its scale above the others."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False))
    rows = torch.eye(4).repeat_interleave(4, dim=1)
    model[1].weight.data = rows * torch.tensor(scales)[:, None]
    return model.eval()


@pytest.fixture
def shape(toy):
    return toy(torch.rand(4, 1, 4, 4), 4)


def test_the_margin_of_a_logit_over_the_largest_other():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert margins_of(logits, torch.tensor([0, 1])).tolist() == [1, -2]


@pytest.mark.parametrize("rows", [7, 256])
def test_largest_margins_of_a_linear_network_in_closed_form(rows, shape):
    finding = MMBD(starts=3, rows=rows)(blocks([1.0, 1.1, 0.9, 5.0]), shape, seed=0)
    torch.testing.assert_close(finding.classes, torch.tensor([4.0, 4.4, 3.6, 20.0]))
    assert finding.suspect == 3
    assert finding.p_value < 0.05


def test_a_network_without_an_outlier_is_not_accused(shape):
    finding = MMBD(starts=3)(blocks([1.0, 1.1, 0.9, 1.05]), shape, seed=0)
    assert finding.suspect is None
    assert not finding.accused
    assert finding.p_value > 0.2


def test_more_starts_are_never_weaker(small_convnet, toy):
    images = toy(torch.rand(3, 1, 4, 5), 3)
    few, many = (MMBD(starts=n, steps=5)(small_convnet, images, seed=0) for n in (1, 4))
    assert (many.classes >= few.classes - 1e-6).all()


def test_the_scale_of_the_logits_does_not_matter():
    margins = np.array([1.0, 2.0, 1.5, 1.2, 6.0])
    np.testing.assert_allclose(judged(margins, 0), judged(1000 * margins, 0))


def test_the_further_out_the_higher_the_score_and_the_lower_the_p_value():
    others = [1.0, 2.0, 1.5, 1.2]
    scores, p_values = zip(
        *(judged(np.array([*others, r]), 0) for r in (2, 4, 8, 1e9)), strict=True
    )
    assert list(scores) == sorted(scores)
    assert list(p_values) == sorted(p_values, reverse=True)
    assert math.isfinite(scores[-1])


def test_equal_margins_and_margins_below_zero_accuse_nobody():
    assert judged(np.ones(5), 0)[0] < LEVEL
    assert judged(np.array([1.0, 1.1, 0.9, -50.0]), 0)[0] < LEVEL


def test_the_score_of_margins_in_closed_form():
    # The others have mean 1 and variance 1: F is exponential.
    others = 1 + np.array([-1, -1, 2]) / math.sqrt(3)
    score, _ = judged(np.array([*others, 5.0]), 0)
    assert score == pytest.approx(-math.log10(1 - (1 - math.exp(-5)) ** 4))


def test_the_p_value_is_small_as_often_as_it_says_and_the_score_is_not():
    rng = np.random.default_rng(0)
    scores, p_values = np.array([judged(rng.gamma(4, size=10), k) for k in range(200)]).T
    assert 0.01 <= (p_values < 0.05).mean() <= 0.1
    assert (scores > LEVEL).mean() > 0.15


@pytest.mark.parametrize(("field", "value"), [("starts", 0), ("step_size", 2.0), ("level", 0.0)])
def test_refuses_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: expected"):
        MMBD(**{field: value})
