import pytest
import torch
from torch import nn

from bezoar import checkpoints
from bezoar.classifier import prepare, random_modules, reseeded, weights_hash
from bezoar.models import Autoencoder, Purified, create
from bezoar.models.autoencoder import CodeNoise
from bezoar.seeds import generator


def images(count, shape, seed=0):
    return torch.rand(count, *shape, generator=generator(seed, "tests", "autoencoder"))


def test_has_the_parameters_of_the_paper():
    assert sum(p.numel() for p in Autoencoder().parameters()) == 88_667


@pytest.mark.parametrize(
    "shape", [(1, 32, 32), (1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 17, 40), (1, 1, 3)]
)
def test_gives_images_of_the_same_shape(shape):
    x = images(3, shape)
    made = Autoencoder(shape=shape, code=7).eval()(x)
    assert made.shape == x.shape
    assert made.min() > 0
    assert made.max() < 1


def test_the_padding_is_cut_where_it_was_put():
    # 28x28 is the middle of 32x32.
    model, x = Autoencoder(shape=(1, 28, 28), sigma=0).eval(), images(2, (1, 28, 28))
    same = Autoencoder(shape=(1, 32, 32), sigma=0).eval()
    same.load_state_dict(model.state_dict())
    inside = same(nn.functional.pad(x, (2, 2, 2, 2)))[:, :, 2:30, 2:30]
    assert torch.equal(model(x), inside)


def test_without_noise_it_is_deterministic_and_declares_none():
    model, x = Autoencoder(sigma=0).eval(), images(4, (1, 32, 32))
    assert torch.equal(model(x), model(x))
    assert random_modules(model) == []


def test_noise_follows_from_the_keys():
    model, x = Autoencoder().eval(), images(4, (1, 32, 32))
    keys = torch.arange(4)
    with reseeded(model, keys):
        first, again = model(x), model(x)
    with reseeded(model, keys.flip(0)):
        other = model(x.flip(0)).flip(0)
    assert torch.equal(first, again)
    torch.testing.assert_close(first, other)
    with reseeded(model, keys + 9):
        assert not torch.equal(first, model(x))


def test_noise_has_the_deviation_that_is_asked_for():
    code, noise = torch.zeros(4000, 10), CodeNoise(0.3)
    noise.reseed(torch.arange(4000))
    drawn = noise(code)
    assert drawn.mean().abs() < 0.01
    assert drawn.std().item() == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"code": 0}, "code=0: expected an integer from 1"),
        ({"sigma": -1.0}, "sigma=-1.0: expected a number at least 0"),
        ({"shape": (1, 0, 4)}, r"shape=\(1, 0, 4\): expected"),
    ],
)
def test_refuses_what_makes_no_network(fields, said):
    with pytest.raises(ValueError, match=said):
        Autoencoder(**fields)


class TestPurified:
    def guarded(self, sigma=0.5):
        network = create("lenet-fig4", shape=(1, 12, 10), classes=3, seed=0, mean=[0.2])
        return Purified(purifier=Autoencoder(shape=(1, 12, 10), sigma=sigma), network=network)

    def test_classifies_what_the_purifier_makes(self):
        model, x = self.guarded(sigma=0).eval(), images(5, (1, 12, 10))
        assert torch.equal(model(x), model.network(model.purifier(x)))

    def test_is_a_model_file_of_parts(self, tmp_path):
        model, path = self.guarded().eval(), tmp_path / "guarded.safetensors"
        checkpoints.save(path, model, classes=("a", "b", "c"), training={"guard": "x"})
        loaded = checkpoints.load(path)
        assert type(loaded.model) is Purified
        assert (loaded.kind, loaded.shape) == ("purified", (1, 12, 10))
        assert weights_hash(loaded.model) == weights_hash(model)
        x, keys = images(5, (1, 12, 10)), torch.arange(5)
        with reseeded(model, keys), reseeded(loaded.model, keys):
            assert torch.equal(loaded.model(x), model(x))

    def test_two_purifiers_in_a_row_are_kept_too(self, tmp_path):
        model, path = self.guarded().eval(), tmp_path / "guarded.safetensors"
        twice = Purified(purifier=Autoencoder(shape=(1, 12, 10), code=3), network=model).eval()
        checkpoints.save(path, twice, classes=("a", "b", "c"))
        assert weights_hash(checkpoints.load(path).model) == weights_hash(twice)

    def test_with_a_part_of_someones_own_it_is_someones_own(self, tmp_path):
        path = tmp_path / "guarded.safetensors"
        model = Purified(purifier=nn.Identity(), network=self.guarded().network)
        checkpoints.save(path, model, classes=("a", "b", "c"), shape=(1, 12, 10))
        assert checkpoints.header(path).kind == "user"

    def test_a_purifier_alone_is_no_classifier(self, tmp_path):
        path = tmp_path / "purifier.safetensors"
        with pytest.raises(ValueError, match="header: autoencoder of Autoencoder: expected one of"):
            checkpoints.save(path, Autoencoder(), classes=("a", "b", "c"))
        assert not path.exists()


def test_behind_it_the_engine_still_folds_batch_norm():
    network = create("vgg-8conv", shape=(1, 28, 28), classes=10, seed=0, width=4)
    guarded = Purified(purifier=Autoencoder(shape=(1, 28, 28), sigma=0.0), network=network)
    prepared = prepare(guarded, torch.rand(4, 1, 28, 28))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.network.modules())
