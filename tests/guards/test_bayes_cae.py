import pytest
import torch

from bezoar.attacks import FGSM
from bezoar.classifier import frozen
from bezoar.defence import Evidence
from bezoar.guards import BayesCAE
from bezoar.models import create
from bezoar.referee import measure
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=5, batch=32, lr=4e-3)(made, digits.train, digits.validation, seed=0)
    return made


@pytest.fixture(scope="module")
def guarded(digits, network):
    guard = BayesCAE(inner=(FGSM(eps=0.2),), epochs=6, batch=32, code=24, lam=0.02, lr=3e-3)
    return guard(network, Evidence(digits.train.first(700), digits.validation), seed=0).classifier


def scores(model, images):
    with torch.no_grad(), frozen(model):
        return model.score(images.batch(slice(None))[0])


def test_who_ignores_the_guard_fools_fewer(digits, network, guarded):
    few = digits.test.first(150)
    alone = measure(FGSM(eps=0.2), network, few, seed=0).facts.robust_accuracy
    ignored = measure(FGSM(eps=0.2), guarded, few, seed=0, aim=network).facts.robust_accuracy
    assert ignored.interval[0] > alone.interval[1]


def test_rejects_no_more_clean_images_than_asked_for(digits, guarded):
    rejected = scores(guarded, digits.validation) > guarded.threshold
    assert 0.03 < rejected.double().mean() <= 0.05


def test_a_divergence_that_weighs_more_becomes_less(digits, network):
    evidence = Evidence(digits.train.first(120), digits.validation.first(30))
    x, _ = digits.validation.batch(slice(50))
    found = []
    for kl in (0.0, 1.0):
        guard = BayesCAE(inner=(FGSM(eps=0.1),), epochs=4, batch=32, kl=kl, lr=3e-3)
        made = guard(network, evidence, seed=0).classifier
        with torch.no_grad():
            found.append(made.network.purifier.drawn(x)[1].mean().item())
    assert found[1] < found[0] / 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kl": -1.0}, "kl=-1.0: expected a number at least 0"),
        ({"draws": 1}, "draws=1: expected an integer >= 2"),
        ({"fpr": 1.5}, "fpr=1.5: expected a number in"),
        ({"clean": 1.5}, "clean=1.5: expected a number in"),
        ({"inner": ()}, "expected at least one attack"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        BayesCAE(**fields)
