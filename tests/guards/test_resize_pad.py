import pytest

from bezoar.attacks import PGD
from bezoar.classifier import outputs_random
from bezoar.defence import Evidence
from bezoar.guards import ResizePad
from bezoar.models import create
from bezoar.referee import DRAWS, measure
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=6, batch=32, lr=3e-3)(made, digits.train, digits.validation, seed=0)
    return made


@pytest.fixture(scope="module")
def guarded(digits, network):
    return ResizePad(images=100)(network, Evidence(digits.train, digits.validation), seed=0)


def test_who_averages_over_the_draws_gets_through(digits, guarded):
    few = digits.test.first(60)
    found = measure(PGD(eps=0.2, steps=10), guarded.classifier, few, seed=0).facts
    assert found.clean_accuracy.interval[0] > 0.6
    assert found.robust_accuracy.value < 0.1


def test_its_noise_is_declared_and_each_answer_is_averaged(digits, guarded):
    x, _ = digits.test.batch(slice(8))
    assert not outputs_random(guarded.classifier, x)  # held by the keys
    assert guarded.cost.forward == DRAWS * 100


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"low": 2.0}, "low=2.0: expected a number in"),
        ({"low": 0.9, "high": 0.5}, "high=0.5: expected a number in"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        ResizePad(**fields)
