from dataclasses import replace

import numpy as np
import pytest
import torch

from bezoar.data import DataSet, ImageSet


@pytest.fixture
def images():
    """Four grey images 1x2: image i has the values 51 i and 0, classes 0 1 0 1."""
    pixels = torch.tensor([0, 0, 51, 0, 102, 0, 153, 0], dtype=torch.uint8).reshape(4, 1, 1, 2)
    labels = torch.tensor([0, 1, 0, 1])
    return ImageSet(pixels, labels, np.array([2, 3, 5, 7]), ("no", "yes"), "toy", np.arange(4))


def test_a_batch_of_bytes_is_float_in_0_to_1_in_the_order_asked_for(images):
    x, y = images.batch(np.array([3, 0, 3]))
    expected = torch.tensor([0.6, 0, 0, 0, 0.6, 0]).reshape(3, 1, 1, 2)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, expected)
    assert y.tolist() == [1, 0, 1]


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2]), np.array([1, 2])])
def test_rows_may_be_a_slice_a_tensor_or_an_array(images, rows):
    assert images.batch(rows)[1].tolist() == [1, 0]
    assert images.take(rows).index.tolist() == [3, 5]


def test_changing_a_batch_does_not_change_the_set(images):
    floats = replace(images, pixels=images.pixels.float() / 255)
    x, y = floats.batch(slice(0, 4))
    x.zero_()
    y.zero_()
    assert floats.pixels.sum() > 0
    assert floats.labels.sum() == 2


def test_take_keeps_index_labels_and_groups_together(images):
    part = images.take(np.array([0, 3]))
    assert len(part) == 2
    assert part.shape == (1, 1, 2)
    assert part.index.tolist() == [2, 7]
    assert part.labels.tolist() == [0, 1]
    assert part.groups.tolist() == [0, 3]


def test_first_and_without_are_complements(images):
    assert images.first(1).index.tolist() == [2]
    assert images.without(np.array([0])).index.tolist() == [3, 5, 7]
    assert images.without(np.array([2, 1, 2])).index.tolist() == [2, 7]


@pytest.mark.parametrize("rows", [[1, 0], [1, 1]])
def test_take_refuses_rows_that_are_not_ascending(images, rows):
    with pytest.raises(ValueError, match="rows of toy: expected ascending rows without repeats"):
        images.take(np.array(rows))


@pytest.mark.parametrize("row", [-1, 4])
def test_refuses_a_row_outside_the_set(images, row):
    with pytest.raises(ValueError, match=f"rows {row} to {row} of toy: expected 0 to 3"):
        images.batch(np.array([row]))


@pytest.mark.parametrize("rows", [np.array([0.0]), np.array([True]), np.array([[0]])])
def test_refuses_rows_that_are_not_positions(images, rows):
    with pytest.raises(TypeError, match=r"expected \(n,\) integers"):
        images.batch(rows)


def test_refuses_more_first_images_than_there_are(images):
    with pytest.raises(ValueError, match="count=5: expected at most the 4 of toy"):
        images.first(5)


def test_refuses_to_drop_every_image(images):
    with pytest.raises(ValueError, match="pixels of toy of shape"):
        images.without(np.arange(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.full((4, 1, 1, 2), torch.nan)}, "values in .nan, nan.: expected .0, 1."),
        ({"pixels": torch.full((4, 1, 1, 2), 255.0)}, "expected .0, 1.; divide by 255"),
        ({"pixels": torch.zeros(4, 1, 1, 2, dtype=torch.float64)}, "uint8 or float32"),
        ({"pixels": torch.zeros(4, 2, dtype=torch.uint8)}, r"of shape \(4, 2\)"),
        ({"pixels": torch.zeros(3, 1, 1, 2)}, r"labels of toy of shape \(4,\): expected \(3,\)"),
        ({"labels": torch.tensor([0, 1, 2, 1])}, "labels of toy hold class 2: expected 0 to 1"),
        ({"labels": torch.tensor([0, 1, -1, 1])}, "labels of toy hold class -1: expected 0 to 1"),
        ({"index": np.array([0, 2, 2, 3])}, "index of toy: expected increasing"),
        ({"index": np.array([-1, 0, 1, 2])}, "index of toy: expected increasing"),
        ({"groups": np.arange(3)}, r"groups of toy of shape \(3,\): expected \(4,\)"),
        ({"classes": ("a", "\x1b[2J")}, r"class 1 of toy named '\\x1b\[2J': expected printable"),
        ({"classes": ("a", "a")}, "classes of toy: expected different names"),
    ],
)
def test_refuses_columns_that_do_not_fit(images, change, message):
    with pytest.raises(ValueError, match=message):
        replace(images, **change)


def test_a_data_set_refuses_splits_of_unequal_shapes(images):
    other = replace(images, pixels=torch.zeros(4, 3, 1, 2), name="other")
    with pytest.raises(ValueError, match=r"other holds images of shape \(3, 1, 2\): expected"):
        DataSet("toy", images.classes, images, images, other)


def test_a_data_set_refuses_splits_of_other_classes(images):
    other = replace(images, classes=("yes", "no"), name="other")
    with pytest.raises(ValueError, match="other: expected the classes of toy"):
        DataSet("toy", images.classes, images, other, images)


def test_a_data_set_refuses_a_single_class(images):
    one = images.take(np.array([0, 2]))
    one = replace(one, classes=("no",))
    with pytest.raises(ValueError, match="expected at least two"):
        DataSet("toy", one.classes, one, one, one)
