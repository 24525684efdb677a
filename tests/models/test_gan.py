import pytest
import torch
import torch.nn.functional as F

from bezoar.models.gan import Critic, Generator, interleaved
from bezoar.seeds import generator

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 17, 40), (1, 1, 3)]


def drawn(*shape, seed=0):
    source = generator(seed, "tests", "gan")
    return torch.rand(*shape, generator=source, dtype=torch.float64)


def made(kind, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**fields).double()


def test_has_the_sizes_and_the_parameters_of_the_paper():
    network = made(Generator)
    assert sum(p.numel() for p in network.parameters()) == 1_554_177
    assert sum(p.numel() for p in made(Critic).parameters()) == 1_030_145
    maps = network.unflatten(network.dense(drawn(2, 128)))
    assert maps.shape == (2, 256, 4, 4)
    assert (maps := network.layers[0](maps)).shape == (2, 128, 7, 7)
    assert (maps := network.layers[1](maps)).shape == (2, 64, 14, 14)
    assert network.layers[2](maps).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("shape", SHAPES)
def test_makes_and_scores_images_of_any_size(shape):
    images = made(Generator, shape=shape, latent=5, width=2)(drawn(3, 5))
    assert images.shape == (3, *shape)
    assert images.min() > 0
    assert images.max() < 1
    assert made(Critic, shape=shape, width=2)(images).shape == (3,)


def test_starts_with_images_that_are_neither_flat_nor_saturated():
    images = made(Generator, width=8)(torch.randn(50, 128, generator=generator(0, "z")).double())
    assert 0.05 < images.std(dim=0).mean() < 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_layer_to_the_image_is_a_transposed_convolution(shape):
    network = made(Generator, shape=shape, latent=5, width=2)
    last = network.layers[-1]
    maps = drawn(3, 2, -(-shape[1] // 2), -(-shape[2] // 2))
    found = interleaved(maps, last.weight, shape) + last.bias[:, None, None]
    torch.testing.assert_close(found, last(maps))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_the_critic_is_that_of_autograd(shape):
    critic, x = made(Critic, shape=shape, width=3), drawn(4, *shape).requires_grad_()
    (wanted,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    found = critic.gradient(x)
    torch.testing.assert_close(found, wanted)
    weights = [layer.weight for layer in (*critic.layers, critic.last)]
    second, wanted = (
        torch.autograd.grad((g.flatten(1).norm(dim=1) - 1).square().mean(), weights)
        for g in (found, wanted)
    )
    torch.testing.assert_close(second, wanted)


def test_the_gradient_of_a_linear_critic_is_its_weights():
    # Above every kink the critic is linear: a difference quotient is exact.
    critic, x = made(Critic, shape=(1, 5, 4), width=2), drawn(1, 1, 5, 4)
    for layer in critic.layers:
        layer.bias.data.fill_(1e3)
    steps = F.one_hot(torch.arange(20), 20).double().reshape(20, 1, 5, 4)
    wanted = critic(x + steps) - critic(x)
    torch.testing.assert_close(critic.gradient(x).flatten(), wanted, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"latent": 0}, "latent=0: expected an integer from 1"),
        ({"width": 2**20}, "width=1048576: expected an integer from 1"),
        ({"shape": (1, 0, 4)}, r"shape=\(1, 0, 4\): expected"),
    ],
)
def test_refuses_what_makes_no_network(fields, said):
    with pytest.raises(ValueError, match=said):
        Generator(**fields)
