"""How low pruning may go."""

import pytest

from bezoar.repairs.tolerance import lowest


def test_a_drop_within_the_error_of_the_measurement_is_borne():
    # Of ten images, nine right: 1.64 sqrt(0.09 / 10).
    assert lowest(0.9, 10, 0.02) == pytest.approx(0.9 - 1.64 * 0.09486833)


def test_with_many_images_the_tolerance_counts():
    assert lowest(0.9, 10_000, 0.02) == pytest.approx(0.88)


def test_without_an_error_and_a_tolerance_nothing_is_borne():
    assert 1 - 1e-8 < lowest(1.0, 10, 0.0) < 1
