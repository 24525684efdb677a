from dataclasses import replace

import numpy as np
import pytest
import torch

from bezoar.backdoors import sifted
from bezoar.costs import Meter
from bezoar.results import Rate
from bezoar.scans import Finding

FOUND = Finding(
    score=1.0,
    threshold=0.5,
    rows=torch.tensor([0.9, 0.8, 0.1, 0.2, 0.3]),
    flagged=torch.tensor([True, True, False, False, False]),
    cost=Meter(),
)


def test_counts_what_is_flagged_of_the_poison_and_of_the_rest():
    made = sifted(FOUND, np.array([0, 2]))
    assert (made.caught, made.alarms) == (Rate(1, 2), Rate(1, 3))
    # Of the six pairs of a poisoned and a clean image the three of image 0 are in order.
    assert made.auc.value == pytest.approx(3 / 6)
    assert made.auc.low < made.auc.value < made.auc.high


def test_of_healthy_data_there_are_only_false_alarms():
    made = sifted(FOUND, np.array([], dtype=np.int64))
    assert (made.caught, made.alarms, made.auc) == (None, Rate(2, 5), None)


def test_refuses_positions_that_the_scan_did_not_see_and_what_a_scan_of_a_model_found():
    with pytest.raises(ValueError, match="rows 1 to 5: expected 0 to 4"):
        sifted(FOUND, np.array([1, 5]))
    with pytest.raises(ValueError, match="expected that of a scan of data"):
        sifted(replace(FOUND, rows=None), np.array([1]))
