"""What every guard keeps to."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from bezoar import checkpoints
from bezoar.attacks import FGSM, PGD
from bezoar.classifier import predict, weights_hash
from bezoar.defence import Evidence
from bezoar.guards import (
    CAE,
    GUARDS,
    IBDPSC,
    JPEG,
    STRIP,
    BayesCAE,
    BitDepth,
    DefenseGAN,
    Guard,
    MagNet,
    Median,
    NonLocalMeans,
    PuVAE,
    ResizePad,
    ScaleUp,
    Smoothing,
    Squeezing,
)
from bezoar.models import create

# Guards that learn, for two rounds, and guards that have nothing to learn.
LEARNT: list[Guard] = [
    CAE(inner=(FGSM(eps=0.3), PGD(eps=0.1, steps=2)), epochs=2),
    CAE(inner=(PGD(eps=0.1, steps=2),), through=True, lam=0.1, sigma=0.3, clean=0.0, epochs=2),
    BayesCAE(inner=(FGSM(eps=0.3),), epochs=2, draws=3),
    DefenseGAN(
        width=2, latent=8, iterations=4, rounds=2, critic_steps=2, batch=24, steps=3, restarts=2
    ),
    MagNet(epochs=2, batch=32),
    PuVAE(latent=4, width=4, hidden=32, epochs=2),
    PuVAE(latent=4, width=4, hidden=32, sigma=0.0, ce=0.0, epochs=2),
    Smoothing(sigma=0.5, epochs=2, batch=32),
]
FIXED: list[Guard] = [
    BitDepth(bits=1),
    IBDPSC(),
    IBDPSC(factor=2.0, count=2, images=20),
    JPEG(quality=40),
    Median(size=3, images=0),
    NonLocalMeans(search=5, strength=0.2),
    ResizePad(low=0.6, high=0.9),
    STRIP(overlays=8),
    STRIP(overlays=4, own=0.5, other=0.5, images=20),
    ScaleUp(),
    ScaleUp(largest=5, by_class=False),
    Smoothing(sigma=0.5, epochs=0),
    Squeezing(),
    Squeezing(bits=4, search=3, strength=0.1),
]

LENET = partial(create, "lenet-fig4", shape=(1, 8, 8), classes=10, seed=0)
RESNET = partial(create, "preact-resnet", shape=(1, 8, 8), classes=10, seed=0, width=2)
MADE = {IBDPSC: RESNET}  # for guards that need batch norm


@pytest.fixture(scope="module")
def evidence(digits):
    return Evidence(digits.train.first(96), digits.validation.first(30))


@pytest.fixture
def network(guard):
    return MADE.get(type(guard), LENET)().eval()


def test_every_guard_has_a_row():
    assert {type(guard) for guard in (*LEARNT, *FIXED)} == set(GUARDS.values())


@pytest.mark.parametrize("guard", [*LEARNT, *FIXED], ids=repr)
class TestGuard:
    def test_gives_a_classifier_and_leaves_the_network_as_it_is(self, guard, network, evidence):
        before = deepcopy(network)
        made = guard(network, evidence, seed=0)
        assert weights_hash(network) == weights_hash(before)
        assert [p.requires_grad for p in network.parameters()] == [
            p.requires_grad for p in before.parameters()
        ]
        x, _ = evidence.validation.batch(slice(None))
        logits = predict(made.classifier, x)
        assert logits.shape == (30, 10)
        # A detector may leave the classes alone and only reject.
        assert hasattr(made.classifier, "score") or not torch.equal(logits, predict(network, x))
        assert not any(module.training for module in made.classifier.modules())

    def test_touches_no_global_state(self, guard, network, evidence):
        state = torch.random.get_rng_state()
        guard(network, evidence, seed=0)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_goes_into_a_model_file_and_back(self, guard, network, evidence, tmp_path):
        made = guard(network, evidence, seed=0).classifier
        path, classes = tmp_path / "guarded.safetensors", [str(k) for k in range(10)]
        checkpoints.save(path, made, classes=classes)
        again = checkpoints.load(path).model
        x, _ = evidence.validation.batch(slice(None))
        assert weights_hash(again) == weights_hash(made)
        torch.testing.assert_close(predict(again, x), predict(made, x))  # sums in another order


@pytest.mark.parametrize("guard", FIXED, ids=repr)
def test_a_guard_without_a_training_logs_where_it_began(guard, network, evidence):
    made = guard(network, evidence, seed=0)
    assert [row["round"] for row in made.log] == [0]
    assert made.cost.images == 0
    assert 0 <= made.log[0]["clean"] <= 1


@pytest.mark.parametrize("guard", LEARNT, ids=repr)
class TestLearntGuard:
    def test_logs_a_row_a_round_and_the_cost(self, guard, network, evidence):
        made = guard(network, evidence, seed=0)
        assert [row["round"] for row in made.log] == [0, 1, 2]
        assert made.cost.forward > 0
        assert made.cost.images == 2 * 96
        assert all(0 <= row["clean"] <= 1 for row in made.log)

    def test_follows_from_the_seed(self, guard, network, evidence):
        first, again, other = (guard(network, evidence, seed=seed) for seed in (0, 0, 1))
        assert weights_hash(first.classifier) == weights_hash(again.classifier)
        assert weights_hash(first.classifier) != weights_hash(other.classifier)

    def test_goes_on_to_the_bit_where_it_was_killed(self, guard, network, evidence, kept):
        whole, place = guard(network, evidence, seed=0), kept(1)
        with pytest.raises(KeyboardInterrupt):
            guard(network, evidence, seed=0, snapshot=place)
        found = guard(network, evidence, seed=0, snapshot=place)
        assert weights_hash(found.classifier) == weights_hash(whole.classifier)
        assert [row["clean"] for row in found.log] == [row["clean"] for row in whole.log]
