import math

import pytest
import torch
from torch import nn

from bezoar import checkpoints
from bezoar.classifier import predict, reseeded, weights_hash
from bezoar.models import Purified, Uncertain, VariationalAutoencoder, create
from bezoar.seeds import generator, hashed_normal


class Drawn(nn.Module):
    """Logits of two classes: what an image's first pixel says, times a normal number."""

    keys = None

    def reseed(self, keys):
        self.keys = keys

    def forward(self, x):
        noise = hashed_normal(self.keys, torch.zeros_like(self.keys), ()).to(x)
        return torch.stack([noise * x[:, 0, 0, 0], torch.zeros_like(noise)], dim=1)


def images(count):
    return torch.rand(count, 1, 8, 8, generator=generator(0, "tests", "uncertain"))


def guarded(draws=4):
    network = create("lenet-fig4", shape=(1, 8, 8), classes=3, seed=0)
    purifier = VariationalAutoencoder(shape=(1, 8, 8), code=4)
    return Uncertain(network=Purified(purifier=purifier, network=network), draws=draws).eval()


def test_the_score_is_zero_where_draws_agree_and_ln_2_where_sure_ones_do_not():
    model, x = Uncertain(network=Drawn(), draws=400), torch.zeros(2, 1, 1, 1)
    x[1] = 1e6
    agreed, split = model.score(x).tolist()
    assert agreed == pytest.approx(0, abs=1e-6)
    assert split == pytest.approx(math.log(2), abs=0.01)


def test_the_score_is_the_divergence_of_the_draws_from_their_mean():
    # Mutual information is the mean of KL(p_t || mean p), another way to compute it.
    model, x = guarded(draws=5), images(6)
    each = []
    for draw in range(5):
        with reseeded(model.network, torch.full((6,), draw)):
            each.append(model.network(x).softmax(dim=1))
    each = torch.stack(each)
    wanted = (each * (each / each.mean(dim=0)).log()).sum(dim=2).mean(dim=0)
    torch.testing.assert_close(model.score(x), wanted, atol=1e-6, rtol=1e-4)


def test_the_score_is_the_same_each_time_whatever_the_neighbours_and_the_keys():
    model, x = guarded(), images(4)
    first = model.score(x)
    torch.testing.assert_close(model.score(x[2:3])[0], first[2], atol=1e-6, rtol=1e-4)
    with reseeded(model, torch.arange(4)):
        assert torch.equal(model.score(x), first)


def test_a_score_in_between_does_not_change_the_noise_of_the_logits():
    model, x = guarded(), images(4)
    with reseeded(model, torch.arange(4)):
        first = model(x)
        model.score(x)
        assert torch.equal(model(x), first)
    with reseeded(model, torch.arange(4) + 9):
        assert not torch.equal(model(x), first)


def test_the_score_has_an_exact_gradient():
    model, x = guarded().double(), images(1).double().requires_grad_()
    assert torch.autograd.gradcheck(model.score, x, atol=1e-6)


def test_is_a_model_file_of_parts(tmp_path):
    model, path = guarded(), tmp_path / "guarded.safetensors"
    model.threshold.fill_(0.25)
    checkpoints.save(path, model, classes=("a", "b", "c"))
    again = checkpoints.load(path).model
    assert type(again) is Uncertain
    assert weights_hash(again) == weights_hash(model)
    torch.testing.assert_close(again.score(images(3)), model.score(images(3)))
    torch.testing.assert_close(predict(again, images(3)), predict(model, images(3)))


@pytest.mark.parametrize("draws", [1, 0, 2.0])
def test_refuses_draws_that_cannot_disagree(draws):
    with pytest.raises(ValueError, match=f"draws={draws}: expected"):
        Uncertain(network=nn.Identity(), draws=draws)
