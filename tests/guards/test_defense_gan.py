from dataclasses import replace

import pytest
import torch

from bezoar.classifier import reseeded, weights_hash
from bezoar.defence import Evidence
from bezoar.guards import DefenseGAN
from bezoar.guards.defense_gan import criticism
from bezoar.models import create
from bezoar.models.gan import Critic
from bezoar.seeds import generator

SMALL = DefenseGAN(
    width=4,
    latent=8,
    iterations=120,
    rounds=3,
    critic_steps=2,
    batch=20,
    lr=5e-3,
    steps=20,
    restarts=2,
    images=10,
)


@pytest.fixture(scope="module")
def evidence(digits):
    return Evidence(digits.train.first(200), digits.validation.first(30))


@pytest.fixture(scope="module")
def network():
    return create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0).eval()


@pytest.fixture(scope="module")
def guarded(network, evidence):
    return SMALL(network, evidence, seed=0)


def test_learns_to_make_what_it_has_seen(guarded, evidence):
    errors = [row["error"] for row in guarded.log]
    assert min(errors) < 0.5 * errors[0]
    # Nearer than the one image that is nearest to all of them.
    x, _ = evidence.validation.first(10).batch(slice(None))
    mean = evidence.train.batch(slice(None))[0].mean(dim=0)
    assert min(errors) < (x - mean).square().mean()


def test_keeps_the_round_of_the_smallest_error(guarded, evidence):
    best = min(guarded.log[1:], key=lambda row: row["error"])
    assert best["score"] == -best["error"]
    x, y = evidence.validation.first(10).batch(slice(None))
    purifier = guarded.classifier.purifier
    with reseeded(purifier, torch.arange(10)):
        found = purifier.reconstruct(x)
    assert found.error.mean().item() == pytest.approx(best["error"], rel=1e-3)
    with torch.no_grad():
        said = guarded.classifier.network(found.images).argmax(dim=1)
    assert (said == y).double().mean().item() == pytest.approx(best["clean"])


def test_counts_images_and_passes(network, evidence):
    # 5 iterations in two rounds: 2 and 3, each of 2 batches for the critic and one more.
    guard = replace(SMALL, iterations=5, rounds=2, steps=3)
    first, second, third = guard(network, evidence, seed=0).log
    judged = {"forward": 10 * (2 * 3 + 2 + 4), "backward": 10 * 2 * 3}
    assert {name: first[name] for name in judged} == judged
    assert (second["images"], third["images"]) == (80, 200)
    for name, each in judged.items():
        assert second[name] - first[name] == each + 2 * (2 * 4 * 20 + 2 * 20)
        assert third[name] - second[name] == each + 3 * (2 * 4 * 20 + 2 * 20)


def test_labels_are_not_used(network, evidence):
    guard = replace(SMALL, iterations=4, rounds=1, steps=2)
    train = replace(evidence.train, labels=torch.zeros_like(evidence.train.labels))
    first, other = (
        guard(network, Evidence(images, evidence.validation), seed=0).classifier
        for images in (evidence.train, train)
    )
    assert weights_hash(other) == weights_hash(first)


def test_the_loss_of_a_linear_critic_in_closed_form():
    critic = Critic(shape=(1, 6, 5), width=2).double()
    for layer in critic.layers:
        layer.bias.data.fill_(1e3)  # above every kink
    x, fake, between = (
        torch.rand(4, 1, 6, 5, generator=generator(k, "loss"), dtype=torch.float64)
        for k in range(3)
    )
    weights = critic.gradient(x[:1]).flatten()
    distance = (fake - x).mean(dim=0).flatten() @ weights
    loss = criticism(critic, x, fake, between, 10.0)
    torch.testing.assert_close(loss, distance + 10 * (weights.norm() - 1) ** 2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 0}, "width=0: expected an integer >= 1"),
        ({"iterations": 4, "rounds": 5}, "iterations=4: expected an integer >= 5"),
        ({"penalty": -1.0}, "penalty=-1.0: expected a number at least 0"),
        ({"momentum": 2.0}, "momentum=2.0: expected a number in"),
        ({"tolerance": -0.1}, "tolerance=-0.1: expected a number in"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        DefenseGAN(**fields)
