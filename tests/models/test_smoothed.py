import pytest
import torch
from torch import nn

from bezoar import checkpoints
from bezoar.classifier import random_modules, reseeded, weights_hash
from bezoar.models import Autoencoder, Purified, Smoothed, create
from bezoar.seeds import generator


def images(count, shape=(1, 12, 10)):
    return torch.rand(count, *shape, generator=generator(0, "tests", "smoothed"))


def smoothed(sigma=0.5):
    network = create("lenet-fig4", shape=(1, 12, 10), classes=3, seed=0, mean=[0.2])
    return Smoothed(sigma=sigma, network=network).eval()


def test_the_noise_is_normal_and_not_cut_to_the_range_of_pixels():
    seen = Smoothed(sigma=0.3, network=nn.Identity())
    with reseeded(seen, torch.arange(4)):
        noise = seen(torch.zeros(4, 1, 50, 50)).flatten() / 0.3
    assert noise.mean().abs() < 0.03
    assert noise.std().item() == pytest.approx(1, rel=0.02)
    assert (noise.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.015)


def test_the_noise_of_an_image_follows_from_its_key_alone():
    model, x, keys = smoothed(), images(4), torch.arange(4)
    assert random_modules(model) == [model]
    with reseeded(model, keys):
        first, again = model(x), model(x)
    with reseeded(model, keys.flip(0)):
        other = model(x.flip(0)).flip(0)
    with reseeded(model, keys + 9):
        fresh = model(x)
    assert torch.equal(first, again)
    torch.testing.assert_close(first, other)
    assert not torch.equal(first, fresh)
    assert not torch.equal(model(x), model(x))


def test_without_deviation_it_is_the_network():
    model, x = smoothed(sigma=0), images(4)
    assert torch.equal(model(x), model.network(x))


def test_the_gradient_is_that_of_the_network_at_the_noisy_image():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(120, 3))
    x = images(2).requires_grad_()
    Smoothed(sigma=0.5, network=linear)(x)[:, 1].sum().backward()
    expected = linear[1].weight[1].reshape(1, 1, 12, 10).expand(2, -1, -1, -1)
    torch.testing.assert_close(x.grad, expected)


def guarded():
    return Purified(purifier=Autoencoder(shape=(1, 12, 10), code=3), network=smoothed()).eval()


@pytest.mark.parametrize(("kind", "make"), [("smoothed", smoothed), ("purified", guarded)])
def test_goes_into_a_model_file_and_back(tmp_path, kind, make):
    model, path = make(), tmp_path / "smoothed.safetensors"
    checkpoints.save(path, model, classes=("a", "b", "c"))
    loaded = checkpoints.load(path)
    assert loaded.kind == kind
    assert weights_hash(loaded.model) == weights_hash(model)
    keys, x = torch.arange(5), images(5)
    with reseeded(model, keys), reseeded(loaded.model, keys):
        torch.testing.assert_close(loaded.model(x), model(x))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_refuses_a_deviation_without_a_meaning(sigma):
    with pytest.raises(ValueError, match=f"sigma={sigma}: expected a number at least 0"):
        Smoothed(sigma=sigma, network=nn.Identity())
