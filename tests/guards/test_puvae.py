from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from bezoar.attacks import FGSM, PGD
from bezoar.defence import Evidence
from bezoar.guards import PuVAE
from bezoar.guards.puvae import divergence
from bezoar.models import ConditionalVAE, create
from bezoar.referee import measure
from bezoar.seeds import generator
from bezoar.training import Training

SMALL = {"latent": 8, "width": 4, "hidden": 32}


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=15, batch=32, lr=3e-3)(made, digits.train, digits.validation, seed=0)
    return made


@pytest.fixture(scope="module")
def guarded(digits, network):
    guard = PuVAE(**SMALL, sigma=0, rc=1, kl=0.1, ce=1, epochs=6, batch=32, lr=3e-3)
    return guard(network, Evidence(digits.train, digits.validation), seed=0)


def test_who_ignores_the_guard_fools_fewer_and_who_knows_it_more(digits, network, guarded):
    attack, model, few = FGSM(eps=0.2), guarded.classifier, digits.test.first(120)
    alone = measure(attack, network, few, seed=0).facts.robust_accuracy
    ignored = measure(attack, model, few, seed=0, aim=network)
    known = measure(PGD(eps=0.2, steps=10), model, few, seed=0)
    assert ignored.stamp.access == "transfer"
    assert known.stamp.access == "white-box"
    assert ignored.facts.robust_accuracy.interval[0] > alone.interval[1]
    assert known.facts.robust_accuracy.interval[1] < ignored.facts.robust_accuracy.interval[0]


def test_the_gradient_of_the_chosen_branch_alone_would_hide_how_weak_it_is(digits, guarded):
    attack, few, branch = PGD(eps=0.2, steps=10), digits.test.first(120), deepcopy(guarded)
    branch.classifier.purifier.surrogate = branch.classifier.purifier.forward
    soft = measure(attack, guarded.classifier, few, seed=0).facts.robust_accuracy
    chosen = measure(attack, branch.classifier, few, seed=0).facts.robust_accuracy
    assert soft.interval[1] < chosen.interval[0]


def test_the_best_epoch_on_validation_is_kept(digits, guarded):
    scores = [row["clean"] for row in guarded.log[1:]]
    assert max(scores) > 0.6
    x, y = digits.validation.batch(slice(None))
    purifier = guarded.classifier.purifier
    with torch.no_grad():
        made, chosen = purifier.project(x)
        clean = (guarded.classifier.network(made).argmax(dim=1) == y).double().mean().item()
    assert clean == pytest.approx(max(scores))
    assert (chosen == y).double().mean() > 0.6  # the class of the closest one is a prediction too


def test_the_divergence_is_that_of_normal_distributions():
    mean = torch.randn(50, 6, generator=generator(0, "tests", "mean"))
    deviation = 0.1 + 2 * torch.rand(50, 6, generator=generator(0, "tests", "deviation"))
    expected = kl_divergence(Normal(mean, deviation), Normal(0, 1)).sum(dim=-1)
    torch.testing.assert_close(divergence(mean, deviation), expected)
    assert divergence(torch.zeros(6), torch.ones(6)) == 0


@pytest.fixture
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConditionalVAE(shape=(1, 8, 8), **SMALL)


class TestLoss:
    def of(self, vae, network, batch, **weights):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return PuVAE(**{"rc": 0.0, "kl": 0.0, "ce": 0.0, **weights}).loss(vae, network, *batch)

    def test_is_the_weighted_sum_of_its_three_parts(self, vae, digits, network):
        x, y = batch = digits.train.batch(slice(0, 16))
        with torch.no_grad():
            rc, kl, ce = (self.of(vae, network, batch, **{name: 1}) for name in ("rc", "kl", "ce"))
            loss = self.of(vae, network, batch, rc=0.5, kl=2, ce=3)
            mean, deviation = vae.posterior(x, y[:, None])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                made = vae.decode(mean + deviation * torch.randn_like(mean), y[:, None])[:, 0]
            pixels = -(x * made.log() + (1 - x) * (1 - made).log()).sum(dim=(1, 2, 3))
            torch.testing.assert_close(rc, pixels.mean())
            torch.testing.assert_close(kl, divergence(mean, deviation).mean())
            torch.testing.assert_close(ce, F.cross_entropy(network(made), y))
            torch.testing.assert_close(loss, 0.5 * rc + 2 * kl + 3 * ce)

    def test_the_gradient_reaches_encoder_and_decoder_and_not_the_classifier(self, vae, digits):
        frozen = create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0).requires_grad_(False)
        self.of(vae, frozen, digits.train.batch(slice(0, 16)), ce=1).backward()
        assert all(p.grad is not None and p.grad.any() for p in vae.parameters())
        assert all(p.grad is None for p in frozen.parameters())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ce": -1}, "ce=-1: expected a number at least 0"),
        ({"sigma": float("nan")}, "sigma=nan: expected a number at least 0"),
        ({"width": 0}, "width=0: expected an integer >= 1"),
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        PuVAE(**fields)
