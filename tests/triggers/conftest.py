import numpy as np
import pytest

from bezoar.data.imageset import ImageSet


@pytest.fixture
def images(batch):
    """The 12 images of ``batch``, of 3 classes in turn, as a train split."""
    x, y = batch
    return ImageSet(x, y, np.arange(12) * 2, ("a", "b", "c"), "toy/train")
