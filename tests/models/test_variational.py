import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bezoar.classifier import reseeded
from bezoar.models import VariationalAutoencoder
from bezoar.seeds import generator


def images(count, shape):
    return torch.rand(count, *shape, generator=generator(0, "tests", "variational"))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 9)])
def test_gives_images_of_the_same_shape(shape):
    made, divergence = VariationalAutoencoder(shape=shape, code=5).eval().drawn(images(3, shape))
    assert made.shape == (3, *shape)
    assert 0 < made.min() < made.max() < 1
    assert divergence.shape == (3,)


def test_the_divergence_is_that_of_the_two_normal_distributions():
    model, x = VariationalAutoencoder(shape=(1, 16, 16), code=6).eval(), images(4, (1, 16, 16))
    mean, log_variance = model.encoder(x).chunk(2, dim=1)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1)).sum(dim=1)
    torch.testing.assert_close(model.drawn(x)[1], wanted)


def test_codes_are_drawn_with_the_mean_and_deviation_of_the_encoder():
    model = VariationalAutoencoder(shape=(1, 16, 16), code=2).eval()
    last = model.encoder[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.5, -2.0, 2 * math.log(0.1), 2 * math.log(3.0)]))
    codes = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    with reseeded(model, torch.arange(4000)):
        model(images(1, (1, 16, 16)).expand(4000, -1, -1, -1))
    assert codes[0].mean(dim=0).tolist() == pytest.approx([0.5, -2.0], abs=0.15)
    assert codes[0].std(dim=0).tolist() == pytest.approx([0.1, 3.0], rel=0.05)


def test_noise_follows_from_the_keys_alone():
    model, x = VariationalAutoencoder(shape=(1, 8, 8)).eval(), images(3, (1, 8, 8))
    keys = torch.arange(3)
    with reseeded(model, keys):
        first = model(x)
    with reseeded(model, keys.flip(0)):
        torch.testing.assert_close(model(x.flip(0)).flip(0), first)
    with reseeded(model, keys + 3):
        assert not torch.equal(model(x), first)


@pytest.mark.parametrize("fields", [{"code": 0}, {"code": 1.5}, {"shape": (1, 0, 4)}])
def test_refuses_what_makes_no_network(fields):
    with pytest.raises(ValueError, match="expected"):
        VariationalAutoencoder(**fields)
