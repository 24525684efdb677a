"""``median`` and ``non-local-means``: filters with exact gradients."""

import pytest
import torch

from bezoar.classifier import predict, weights_hash
from bezoar.defence import Evidence
from bezoar.guards import Median, NonLocalMeans
from bezoar.models import MedianFilter, create
from bezoar.models import NonLocalMeans as Filter


@pytest.mark.parametrize(
    ("guard", "purifier"),
    [
        (Median(size=3), MedianFilter(size=3)),
        (
            NonLocalMeans(search=5, patch=1, strength=0.1),
            Filter(search=5, patch=1, strength=0.1),
        ),
    ],
    ids=["median", "non-local-means"],
)
def test_the_classifier_sees_what_the_filter_makes(digits, guard, purifier):
    network = create("lenet-fig4", shape=digits.shape, classes=10, seed=0).eval()
    evidence = Evidence(digits.train.first(20), digits.validation.first(30))
    guarded = guard(network, evidence, seed=0).classifier
    x, y = evidence.validation.batch(slice(None))
    assert torch.equal(predict(guarded, x), predict(network, purifier(x)))
    assert weights_hash(guarded.network) == weights_hash(network)
    right = (predict(network, purifier(x)).argmax(dim=1) == y).double().mean().item()
    assert guard(network, evidence, seed=1).log[0]["clean"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Median(size=0), "size=0: expected an integer from 1"),
        (lambda: Median(images=-1), "images=-1: expected an integer >= 0"),
        (lambda: NonLocalMeans(search=2), "search=2: expected an odd number"),
        (lambda: NonLocalMeans(strength=-1.0), "strength=-1.0: expected a number at least"),
        (lambda: NonLocalMeans(images=-1), "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(make, said):
    with pytest.raises(ValueError, match=said):
        make()
