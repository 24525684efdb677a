import pytest

from bezoar import data
from bezoar.data.imageset import DataSet


@pytest.fixture(scope="module")
def digits() -> DataSet:
    """The embedded digits, 1x8x8."""
    return data.load("digits")
