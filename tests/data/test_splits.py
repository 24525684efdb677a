import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bezoar.data import ImageSet
from bezoar.data.splits import by_group, hold_out, stratified, three_ways

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array)
SEEDS = st.integers(0, 2**31)


@given(labels=LABELS, seed=SEEDS)
def test_parts_are_ascending_disjoint_and_complete(labels, seed):
    parts = stratified(labels, (0.6, 0.2, 0.2), seed)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(len(labels)))


@given(labels=LABELS, share=st.floats(0, 1), seed=SEEDS)
def test_each_class_gets_its_share_to_within_one_row(labels, share, seed):
    part, _ = stratified(labels, (share, 1 - share), seed)
    exact = np.bincount(labels, minlength=5) * (len(part) / len(labels))
    assert (abs(np.bincount(labels[part], minlength=5) - exact) < 1).all()
    assert abs(len(part) - share * len(labels)) <= 0.5 + 1e-6


@given(labels=LABELS, seed=SEEDS)
def test_same_seed_same_parts(labels, seed):
    first, second = (stratified(labels, (0.5, 0.5), seed) for _ in range(2))
    assert [part.tolist() for part in first] == [part.tolist() for part in second]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80).map(np.array), SEEDS)
def test_no_group_is_torn_apart(groups, seed):
    parts = by_group(groups % 3, groups, (0.7, 0.3), seed)
    assert not set(groups[parts[0]]) & set(groups[parts[1]])
    assert np.sort(np.concatenate(parts)).tolist() == list(range(len(groups)))


def test_balanced_classes_stay_exactly_balanced():
    labels = np.arange(600) % 10
    kept, held = stratified(labels, (5 / 6, 1 / 6), seed=0)
    assert np.bincount(labels[kept]).tolist() == [50] * 10
    assert np.bincount(labels[held]).tolist() == [10] * 10


def test_rows_left_by_rounding_go_to_the_largest_remainders():
    # Exact shares of 5 out of 10 rows: 3.5, 1 and 0.5; the tie goes to the lower class.
    labels = np.array([0] * 7 + [1] * 2 + [2])
    part, _ = stratified(labels, (5, 5), seed=3)
    assert np.bincount(labels[part], minlength=3).tolist() == [4, 1, 0]


def test_another_seed_gives_other_parts():
    labels = np.zeros(100, dtype=int)
    first, second = (stratified(labels, (0.5, 0.5), seed)[0] for seed in (0, 1))
    assert first.tolist() != second.tolist()


def test_groups_are_shared_out_by_class():
    # Ten groups of three rows in each of two classes.
    groups = np.repeat(np.arange(20), 3)
    _, held = by_group(groups // 10, groups, (0.8, 0.2), seed=0)
    assert np.bincount(groups[held] // 10).tolist() == [6, 6]


def test_refuses_a_group_with_two_classes():
    with pytest.raises(ValueError, match="group 7 has classes 0 and 1: expected one class a group"):
        by_group(np.array([0, 1]), np.array([7, 7]), (0.5, 0.5), seed=0)


@pytest.mark.parametrize("parts", [(0.5, 0.4), (1.5, -0.5), (3, 3), (), (float("nan"), 1.0)])
def test_refuses_parts_that_do_not_add_up(parts):
    with pytest.raises(ValueError, match="expected shares of 1 or counts of 4"):
        stratified(np.zeros(4, dtype=int), parts, seed=0)


def _set(count, name, groups=None):
    """``count`` images of two classes by turns."""
    pixels = torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1)
    labels = torch.arange(count) % 2
    return ImageSet(pixels, labels, np.arange(count), ("even", "odd"), name, groups)


def test_three_ways_names_the_splits_and_keeps_positions():
    data = three_ways(_set(10, "toy"), seed=0)
    splits = (data.train, data.validation, data.test)
    assert [split.name for split in splits] == ["toy/train", "toy/validation", "toy/test"]
    assert [len(split) for split in splits] == [6, 2, 2]
    assert all((split.pixels.ravel().numpy() == split.index).all() for split in splits)


def test_hold_out_leaves_the_test_split_alone():
    data = hold_out(_set(12, "toy"), _set(4, "toy"), 1 / 6, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 2, 4)
    assert data.test.index.tolist() == [0, 1, 2, 3]
    assert data.test.name == "toy/test"


def test_hold_out_keeps_groups_whole():
    groups = np.array([0, 1] * 6) + np.repeat([0, 2, 4], 4)
    data = hold_out(_set(12, "toy", groups), _set(4, "toy"), 1 / 3, seed=0)
    assert not set(data.train.groups) & set(data.validation.groups)


def test_names_the_set_whose_groups_have_two_classes():
    with pytest.raises(ValueError, match="toy: group 0 has classes 0 and 1"):
        three_ways(_set(10, "toy", np.zeros(10, dtype=int)), seed=0)


def test_the_split_depends_on_seed_and_name_alone():
    first, again, other = (
        three_ways(_set(60, name), seed=0).test.index.tolist() for name in ("a", "a", "b")
    )
    assert first == again
    assert first != other


def test_refuses_a_set_too_small_for_three_splits():
    with pytest.raises(ValueError, match=r"toy cut into \[1, 1, 0\] images: expected at least one"):
        three_ways(_set(2, "toy"), seed=0)
