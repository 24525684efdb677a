import math
from functools import partial

import pytest
import torch
from torch import nn

from bezoar.models import MODELS, create, restart

KINDS = sorted(MODELS)


def weights(kind, seed):
    return create(kind, shape=(1, 28, 28), classes=10, seed=seed).state_dict()


@pytest.mark.parametrize("kind", KINDS)
class TestCreate:
    def test_the_same_seed_gives_the_same_weights(self, kind):
        torch.testing.assert_close(weights(kind, 3), weights(kind, 3), rtol=0, atol=0)

    def test_another_seed_gives_other_weights(self, kind):
        assert not torch.equal(weights(kind, 3)["output.weight"], weights(kind, 4)["output.weight"])

    def test_global_random_state_is_neither_changed_nor_read(self, kind):
        state = torch.get_rng_state()
        first = weights(kind, 0)
        assert torch.equal(torch.get_rng_state(), state)
        with torch.random.fork_rng():
            torch.manual_seed(99)
            torch.testing.assert_close(weights(kind, 0), first, rtol=0, atol=0)

    def test_weights_fill_the_glorot_range_and_biases_are_zero(self, kind):
        state = weights(kind, 0)
        bound = math.sqrt(6 / (state["output.weight"].shape[1] + 10))
        assert 0.95 * bound < state["output.weight"].abs().max() <= bound
        assert state["output.weight"].mean().abs() < 0.1 * bound
        assert all((value == 0).all() for name, value in state.items() if name.endswith("bias"))


def test_subsampling_starts_as_the_plain_mean():
    state = weights("lenet5", 0)
    assert (state["s2.coefficient"] == 1).all()
    assert (state["s4.coefficient"] == 1).all()


def test_an_unknown_kind_is_refused_with_a_guess():
    with pytest.raises(ValueError, match=r"model 'lenet-fig5': expected one of .* did you mean"):
        create("lenet-fig5", shape=(1, 28, 28), classes=10, seed=0)


def user_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    "make",
    [user_network, *(partial(create, k, shape=(1, 8, 8), classes=3, seed=0) for k in KINDS)],
    ids=["user", *KINDS],
)
class TestRestart:
    def test_forgets_what_was_learnt(self, make):
        first, second = make(), make()
        for parameter in second.parameters():
            parameter.data.fill_(7)
        for model in (first, second):
            restart(model, seed=1)
        torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)

    def test_leaves_the_global_random_state_alone(self, make):
        model, state = make(), torch.get_rng_state()
        restart(model, seed=1)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_cannot_be_restarted_is_refused():
    with pytest.raises(ValueError, match="Flatten has no layer with reset_parameters"):
        restart(nn.Flatten(), seed=0)
