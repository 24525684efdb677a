import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import checkpoints
from bezoar.models import create
from bezoar.models.small import LETTERS
from bezoar.seeds import generator


def images(*shape):
    return torch.rand(4, *shape, generator=generator(0, "tests", "images"))


def network(letter, shape=(1, 28, 28), **fields):
    return create("small-net", shape=shape, classes=10, seed=0, letter=letter, **fields)


def rates(model):
    return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(
    ("letter", "layers"),
    [
        ("a", [25 * 64 + 64, 25 * 64 * 64 + 64, 64 * 12 * 12 * 128 + 128, 1290]),
        ("b", [64 * 64 + 64, 36 * 64 * 128 + 128, 25 * 128 * 128 + 128, 1290]),
        ("c", [9 * 128 + 128, 25 * 128 * 64 + 64, 64 * 12 * 12 * 128 + 128, 1290]),
        ("d", [784 * 200 + 200, 200 * 200 + 200, 2010]),
        ("e", [784 * 200 + 200, 200 * 200 + 200, 2010]),
        ("f", [64 * 64 + 64, 36 * 64 * 128 + 128, 25 * 128 * 128 + 128, 1290]),
    ],
)
def test_has_the_parameters_of_the_layers_in_the_paper(letter, layers):
    found = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in network(letter).modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert found == layers


@pytest.mark.parametrize(
    ("letter", "dropped"),
    [
        ("a", [0.25, 0.5]),
        ("b", [0.2, 0.5]),
        ("c", [0.25, 0.5]),
        ("d", [0.5]),
        ("e", []),
        ("f", []),
    ],
)
def test_drops_in_training_only_and_what_the_paper_drops(letter, dropped):
    model, x = network(letter), images(1, 28, 28)
    assert rates(model) == dropped
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(model.train()(x), model(x)) == (not dropped)
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(("plain", "dropping"), [("e", "d"), ("f", "b")])
def test_e_and_f_are_d_and_b_without_their_dropout(plain, dropping):
    model, other = network(plain).eval(), network(dropping).eval()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data.copy_(theirs)
    x = images(1, 28, 28)
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(("letter", "smallest"), [("a", 5), ("b", 28), ("c", 5), ("f", 28)])
def test_smaller_images_are_padded_with_black(letter, smallest):
    assert LETTERS[letter][0] == smallest
    x = images(1, smallest - 2, smallest - 4)
    given = network(letter, x.shape[1:], mean=[0.3]).eval()
    large = network(letter, (1, smallest, smallest), mean=[0.3]).eval()
    torch.testing.assert_close(given(x), large(F.pad(x, (2, 2, 1, 1))))


@pytest.mark.parametrize("letter", list(LETTERS))
def test_comes_back_from_its_file(letter, tmp_path):
    model, path = network(letter, (2, 9, 31)), tmp_path / "model.safetensors"
    checkpoints.save(path, model, classes=[str(k) for k in range(10)])
    loaded = checkpoints.load(path)
    x = images(2, 9, 31)
    assert loaded.fields == model.fields
    assert torch.equal(loaded.model(x), model.eval()(x))
