import pytest
import torch
from torch import nn

from bezoar.certificates import certify
from bezoar.classifier import predict, weights_hash
from bezoar.defence import Evidence
from bezoar.guards import Smoothing
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    Training(epochs=12, batch=32, lr=3e-3)(made, digits.train, digits.validation, seed=0)
    return made


@pytest.fixture(scope="module")
def evidence(digits):
    return Evidence(digits.train, digits.validation)


@pytest.fixture(scope="module")
def learnt(network, evidence):
    return Smoothing(sigma=0.5, epochs=6, batch=32, lr=3e-3)(network, evidence, seed=0)


def test_a_network_that_learnt_with_the_noise_is_certified_further(
    digits, network, evidence, learnt
):
    images = digits.test.first(60)
    plain = Smoothing(sigma=0.5, epochs=0)(network, evidence, seed=0)
    before, after = (
        certify(made.classifier, images, n=1000, seed=0).accuracy(0.4) for made in (plain, learnt)
    )
    assert after.interval[0] > before.interval[1]


def test_the_best_epoch_through_the_noise_is_kept(digits, learnt):
    x, y = digits.validation.batch(slice(None))
    clean = (predict(learnt.classifier, x).argmax(dim=1) == y).double().mean().item()
    assert clean == pytest.approx(max(row["clean"] for row in learnt.log[1:]))
    assert clean > learnt.log[0]["clean"]


def test_without_an_epoch_the_network_behind_the_noise_is_the_one_that_came(network, evidence):
    made = Smoothing(sigma=0.5, epochs=0)(network, evidence, seed=0)
    assert made.classifier.sigma == 0.5
    assert weights_hash(made.classifier.network) == weights_hash(network)


def test_a_frozen_network_learns_too(network, evidence):
    network.requires_grad_(False)
    made = Smoothing(epochs=1)(network, evidence, seed=0)
    network.requires_grad_(True)
    assert weights_hash(made.classifier.network) != weights_hash(network)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sigma": -1}, "sigma=-1: expected a number at least 0"),
        ({"epochs": -1}, "epochs=-1: expected an integer >= 0"),
        ({"batch": 0}, "batch=0: expected an integer >= 1"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
        ({"schedule": "cosin"}, "did you mean 'cosine'?"),
        ({"lr": float("nan")}, "lr=nan: expected a number at least 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        Smoothing(**fields)
