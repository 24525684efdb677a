"""Trusted images, and toys."""

import numpy as np
import pytest
import torch

from bezoar.data.imageset import ImageSet


@pytest.fixture(scope="session")
def trusted(digits) -> ImageSet:
    """30 images of the ten digits; 30 is no multiple of the batches of the cases."""
    return digits.train.first(30)


@pytest.fixture
def toy():
    """Images of any shape, with labels in turn, as a train split of K classes."""

    def make(x: torch.Tensor, classes: int) -> ImageSet:
        names = tuple("abcdefghij"[:classes])
        return ImageSet(x, torch.arange(len(x)) % classes, np.arange(len(x)), names, "toy/train")

    return make
