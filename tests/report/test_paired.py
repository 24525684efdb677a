import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.report.paired import Paired

COUNTS = st.integers(0, 40)


def test_counts_image_by_image():
    before = np.array([True, True, False, False, False])
    after = np.array([True, False, True, True, False])
    assert Paired.of(before, after) == Paired(both=1, healed=2, harmed=1, neither=1)
    assert Paired.of(before, after).change == pytest.approx(0.2)


def test_a_single_healed_image_of_two_has_the_mcnemar_value_of_one_coin():
    assert Paired(both=1, healed=1, harmed=0, neither=0).p_value == 1.0
    assert Paired(both=0, healed=10, harmed=0, neither=0).p_value == pytest.approx(2 / 2**10)


def test_uncorrelated_halves_add_their_wilson_intervals_in_squares():
    # phi = 0 and both rates 1/2 with 4 images: each half-width is z / 2 sqrt(1 / (n + z^2)).
    z = 1.959963984540054
    half = z / 2 / (4 + z**2) ** 0.5
    low, high = Paired(both=1, healed=1, harmed=1, neither=1).interval
    assert (low, high) == pytest.approx((-half * 2**0.5, half * 2**0.5))


@given(both=COUNTS, healed=COUNTS, harmed=COUNTS, neither=st.integers(1, 40))
def test_interval_holds_the_change_and_turns_with_the_roles(both, healed, harmed, neither):
    forth = Paired(both, healed, harmed, neither)
    back = Paired(both, harmed, healed, neither)
    low, high = forth.interval
    assert -1 - 1e-9 <= low <= forth.change <= high <= 1 + 1e-9
    assert back.interval == pytest.approx((-high, -low))
    assert back.p_value == pytest.approx(forth.p_value)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="expected one length"):
        Paired.of(np.array([True]), np.array([True, False]))
