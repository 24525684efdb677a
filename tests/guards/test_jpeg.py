import pytest

from bezoar.attacks import FGSM, PGD
from bezoar.defence import Evidence
from bezoar.guards import JPEG
from bezoar.models import create
from bezoar.referee import measure
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig3", shape=digits.shape, classes=10, seed=0)
    Training(epochs=3, batch=32)(made, digits.train, digits.validation, seed=0)
    return made


def test_who_goes_through_the_surrogate_fools_more_than_who_ignores_the_encoder(digits, network):
    made = JPEG(quality=20)(network, Evidence(digits.train, digits.validation), seed=0)
    attack = PGD(eps=0.1, steps=10)
    ignored = measure(attack, made.classifier, digits.test, seed=0, aim=network)
    known = measure(attack, made.classifier, digits.test, seed=0)
    assert known.facts.robust_accuracy.interval[1] < ignored.facts.robust_accuracy.interval[0]


def test_less_quality_costs_clean_accuracy(digits, network):
    evidence = Evidence(digits.train, digits.validation)
    clean = [JPEG(quality=q)(network, evidence, seed=0).log[0]["clean"] for q in (1, 100)]
    alone = measure(FGSM(eps=0), network, digits.validation, seed=0).facts.clean_accuracy.value
    assert clean[0] < clean[1]
    assert clean[1] == pytest.approx(alone, abs=0.01)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quality": 0}, "quality=0: expected an integer from 1 to 100"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        JPEG(**fields)
