from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.results import Facts, Rate


def facts(**columns):
    """Facts of three images: right and robust; right and fooled; wrong from the start."""
    defaults = {
        "index": np.array([2, 3, 7]),
        "label": np.array([0, 1, 2]),
        "clean": np.array([0, 1, 0]),
        "adversarial": np.array([0, 2, 2]),
        "clean_loss": np.array([0.1, 0.2, 3.0], dtype=np.float32),
        "loss": np.array([0.4, 2.0, 0.5], dtype=np.float32),
        "distance": np.array([0.1, 0.1, 0.1], dtype=np.float32),
        "first_success": np.array([-1, 3, 0]),
        "forward": np.array([41, 4, 1]),
        "backward": np.array([40, 4, 1]),
        "zero_gradient": np.array([False, False, True]),
    }
    return Facts(**defaults | columns)


class TestRate:
    @given(total=st.integers(1, 10**6), share=st.floats(0, 1))
    def test_its_interval_is_that_of_wilson(self, total, share):
        count = round(share * total)
        p, z = count / total, 1.959963984540054
        centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
        assert Rate(count, total).interval == pytest.approx((centre - half, centre + half))

    @given(total=st.integers(1, 10**6), share=st.floats(0, 1))
    def test_its_interval_holds_the_share_and_lies_in_0_to_1(self, total, share):
        rate = Rate(round(share * total), total)
        low, high = rate.interval
        assert 0 <= low <= rate.value <= high <= 1

    @pytest.mark.parametrize(("count", "ends"), [(0, (0.0, 0.278)), (10, (0.722, 1.0))])
    def test_none_and_all_keep_an_interval(self, count, ends):
        assert Rate(count, 10).interval == pytest.approx(ends, abs=5e-4)

    def test_prints_share_interval_and_count(self):
        assert str(Rate(1, 4)) == "25.0% [4.6%, 69.9%] (1/4)"

    @pytest.mark.parametrize(("count", "total"), [(0, 0), (-1, 4), (5, 4), (0, -1)])
    def test_refuses_what_is_no_share(self, count, total):
        message = rf"rate {count}/{total}: expected 0 <= count <= total >= 1"
        with pytest.raises(ValueError, match=message):
            Rate(count, total)


class TestFacts:
    def test_an_image_is_robust_when_it_was_right_clean_and_attacked(self):
        assert facts().robust.tolist() == [True, False, False]

    def test_rates_count_all_images_also_those_wrong_from_the_start(self):
        assert facts().robust_accuracy == Rate(1, 3)
        assert facts().clean_accuracy == Rate(2, 3)

    @pytest.mark.parametrize("name", [field.name for field in fields(Facts)])
    def test_refuses_a_column_of_another_length(self, name):
        with pytest.raises(ValueError, match=r"columns of lengths .*: expected equal lengths >= 1"):
            facts(**{name: getattr(facts(), name)[:2]})

    def test_refuses_to_be_about_nothing(self):
        with pytest.raises(ValueError, match="expected equal lengths >= 1"):
            Facts(**{field.name: np.zeros(0, dtype=np.int64) for field in fields(Facts)})

    @pytest.mark.parametrize("index", [[2, 2, 3], [3, 2, 7], [7, 3, 2]])
    def test_refuses_an_index_that_does_not_increase(self, index):
        with pytest.raises(ValueError, match="index: expected strictly increasing positions"):
            facts(index=np.array(index))

    def test_units_are_joined_in_order_and_keep_their_types(self):
        later = facts(index=np.array([8, 10, 11]))
        joined = Facts.joined([facts(), later])
        assert len(joined) == 6
        assert joined.index.tolist() == [2, 3, 7, 8, 10, 11]
        assert joined.adversarial.tolist() == [0, 2, 2, 0, 2, 2]
        assert joined.loss.dtype == np.float32
        assert joined.zero_gradient.dtype == np.bool_

    def test_units_out_of_order_are_refused(self):
        with pytest.raises(ValueError, match="index: expected strictly increasing positions"):
            Facts.joined([facts(index=np.array([8, 10, 11])), facts()])
