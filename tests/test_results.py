from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.results import (
    Facts,
    Median,
    Rate,
    border,
    standing,
    success_by_queries,
    worst_name,
)


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
        "target": None,
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

    @pytest.mark.parametrize("name", facts().columns())
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


class TestReach:
    def test_it_is_the_distance_where_fooled_0_where_wrong_before_and_infinite_else(self):
        assert facts().reach().tolist() == [np.inf, pytest.approx(0.1), 0]

    def test_what_was_found_in_a_ball_is_in_it_however_it_was_rounded(self):
        assert facts().reach(0.1)[1] == 0.1
        assert facts(distance=np.full(3, 0.04, np.float32)).reach(0.1)[1] == np.float32(0.04)

    @pytest.mark.parametrize(("eps", "count"), [(0.05, 2), (0.1, 2), (0.11, 1), (9, 1)])
    def test_accuracy_at_a_radius_counts_what_was_found_within_it(self, eps, count):
        assert facts().outcome(eps) == Rate(count, 3)


class TestTarget:
    """To class 0, 2 and 2: still at 0; led there; where it was not and still is not."""

    def test_only_the_target_is_success(self):
        led = facts(target=np.array([0, 2, 1]))
        assert led.success.tolist() == [True, True, False]
        assert led.reach().tolist() == [0, pytest.approx(0.1), np.inf]
        assert led.outcome() == Rate(2, 3)
        assert led.outcome(0.05) == Rate(1, 3)

    def test_units_with_and_without_one_do_not_fit_together(self):
        led = facts(target=np.array([0, 2, 1]), index=np.array([8, 9, 10]))
        assert Facts.joined([led]).target.tolist() == [0, 2, 1]
        with pytest.raises(ValueError, match="units with and without a target"):
            Facts.joined([facts(), led])


class TestMedian:
    @pytest.mark.parametrize(
        ("distances", "value"),
        [([3, 1, 2], 2), ([4, 1, 3, 2], 2.5), ([1, 2, np.inf], 2), ([1, np.inf], np.inf)],
    )
    def test_what_was_not_found_is_further_than_all_others(self, distances, value):
        assert Median.of(np.array(distances, float)).value == value

    def test_its_interval_is_that_of_the_sign_test(self):
        # Of 20, the 6th and the 15th: P(B <= 5) = 0.0207 for B of 20 coins.
        middle = Median.of(np.arange(1.0, 21))
        assert (middle.low, middle.high, middle.total) == (6, 15, 20)

    def test_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="median of no distances: expected at least one"):
            Median.of(np.zeros(0))


def standing_of(robust, *, index=None, distance=0.1):
    """Facts of images of class 0: which of them stand."""
    count = len(robust)
    return facts(
        index=np.arange(count) if index is None else np.array(index),
        adversarial=1 - np.array(robust, np.int64),
        distance=np.full(count, distance, np.float32),
        **{name: np.zeros(count, np.int64) for name in ("label", "clean", "first_success")},
        **{name: np.zeros(count, np.int64) for name in ("forward", "backward")},
        **{name: np.zeros(count, np.float32) for name in ("loss", "clean_loss")},
        zero_gradient=np.zeros(count, bool),
    )


class TestStanding:
    def test_who_falls_at_a_radius_falls_at_every_larger_one(self):
        found = [(standing_of([0, 1, 1]), 0.1), (standing_of([1, 0, 1], distance=0.2), 0.2)]
        assert standing(found, 0.1)[1].tolist() == [False, True, True]
        assert standing(found, 0.2)[1].tolist() == [False, False, True]

    def test_without_a_radius_it_is_the_distance_that_counts(self):
        found = [(standing_of([0, 0, 1], distance=0.3), np.inf), (standing_of([1, 0, 1]), 0.1)]
        assert standing(found, 0.1)[1].tolist() == [True, False, True]
        assert standing(found, 0.3)[1].tolist() == [True, False, True]
        assert standing(found, 0.31)[1].tolist() == [False, False, True]

    def test_images_that_only_an_attack_of_a_smaller_radius_saw_do_not_count(self):
        found = [(standing_of([0, 0, 0]), 0.1), (standing_of([1, 1], index=[1, 7]), 0.2)]
        index, stands = standing(found, 0.2)
        assert (index.tolist(), stands.tolist()) == ([1, 7], [False, True])

    def test_a_radius_that_nobody_attacked_at_is_refused(self):
        with pytest.raises(ValueError, match=r"eps=0.2: expected at least one attack of this rad"):
            standing([(standing_of([0]), 0.1)], 0.2)


def test_the_border_is_that_of_the_nearest_image_of_those_that_were_right():
    first = standing_of([0, 0, 1, 1], distance=0.3)
    second = standing_of([0, 1, 0, 1], distance=0.2)
    assert border([first, second]).tolist() == pytest.approx([0.2, 0.3, 0.2, np.inf])
    assert border([facts()]).tolist() == pytest.approx([np.inf, 0.1])


def test_the_worst_case_names_its_norm_unless_it_is_linf():
    assert worst_name("linf", 8 / 255) == "robust@0.0313725"
    assert worst_name("l2", 0.5) == "robust-l2@0.5"


class TestSuccessByQueries:
    def test_counts_those_that_were_right_and_not_the_look_at_the_clean_image(self):
        search = facts(forward=np.array([101, 5, 1]), backward=np.zeros(3, np.int64))
        found = success_by_queries(search, (3, 4, 1000))
        assert found == [Rate(0, 2), Rate(1, 2), Rate(1, 2)]

    def test_an_attack_that_saw_gradients_is_refused(self):
        with pytest.raises(ValueError, match="backward passes found: expected an attack that sees"):
            success_by_queries(facts(), (10,))
