import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import checkpoints
from bezoar.models import MODELS, create
from bezoar.seeds import generator

KINDS = [f"net-{letter}" for letter in "abcdef"]


def images(*shape):
    return torch.rand(4, *shape, generator=generator(0, "tests", "images"))


def network(kind, shape=(1, 28, 28), **fields):
    return create(kind, shape=shape, classes=10, seed=0, **fields)


def rates(model):
    return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("net-a", [25 * 64 + 64, 25 * 64 * 64 + 64, 64 * 12 * 12 * 128 + 128, 1290]),
        ("net-b", [64 * 64 + 64, 36 * 64 * 128 + 128, 25 * 128 * 128 + 128, 1290]),
        ("net-c", [9 * 128 + 128, 25 * 128 * 64 + 64, 64 * 12 * 12 * 128 + 128, 1290]),
        ("net-d", [784 * 200 + 200, 200 * 200 + 200, 2010]),
        ("net-e", [784 * 200 + 200, 200 * 200 + 200, 2010]),
        ("net-f", [64 * 64 + 64, 36 * 64 * 128 + 128, 25 * 128 * 128 + 128, 1290]),
    ],
)
def test_has_the_parameters_of_the_layers_in_the_paper(kind, layers):
    found = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in network(kind).modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert found == layers


@pytest.mark.parametrize(
    ("kind", "dropped"),
    [
        ("net-a", [0.25, 0.5]),
        ("net-b", [0.2, 0.5]),
        ("net-c", [0.25, 0.5]),
        ("net-d", [0.5]),
        ("net-e", []),
        ("net-f", []),
    ],
)
def test_drops_in_training_only_and_what_the_paper_drops(kind, dropped):
    model, x = network(kind), images(1, 28, 28)
    assert rates(model) == dropped
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(model.train()(x), model(x)) == (not dropped)
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(("plain", "dropping"), [("net-e", "net-d"), ("net-f", "net-b")])
def test_e_and_f_are_d_and_b_without_their_dropout(plain, dropping):
    model, other = network(plain).eval(), network(dropping).eval()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data.copy_(theirs)
    x = images(1, 28, 28)
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("kind", "smallest"), [("net-a", 5), ("net-b", 28), ("net-c", 5), ("net-f", 28)]
)
def test_smaller_images_are_padded_with_black(kind, smallest):
    assert MODELS[kind].smallest == smallest
    x = images(1, smallest - 2, smallest - 4)
    given = network(kind, x.shape[1:], mean=[0.3]).eval()
    large = network(kind, (1, smallest, smallest), mean=[0.3]).eval()
    torch.testing.assert_close(given(x), large(F.pad(x, (2, 2, 1, 1))))


@pytest.mark.parametrize("kind", KINDS)
def test_comes_back_from_its_file(kind, tmp_path):
    model, path = network(kind, (2, 9, 31)), tmp_path / "model.safetensors"
    checkpoints.save(path, model, classes=[str(k) for k in range(10)])
    loaded = checkpoints.load(path)
    x = images(2, 9, 31)
    assert loaded.fields == model.fields
    assert torch.equal(loaded.model(x), model.eval()(x))
