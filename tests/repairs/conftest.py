"""What a defender has of the real digits."""

import pytest

from bezoar.defence import Evidence
from bezoar.triggers import BadNets


@pytest.fixture(scope="session")
def evidence(digits) -> Evidence:
    """40 images to learn from and 40 to judge on; 40 is no multiple of the batch of 16.

    For those who ask: a trigger, and what the network was trained on.
    """
    trigger, suspects = BadNets(size=2).stamp, digits.train.first(60)
    return Evidence(digits.train.first(40), digits.validation.first(40), trigger, suspects)
