import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import checkpoints
from bezoar.classifier import neighbour_change, prepare, random_modules, reseeded, weights_hash
from bezoar.models import ConditionalVAE, Purified, create
from bezoar.seeds import generator, hashed_normal, subkeys

SHAPE = (1, 8, 8)


def images(count, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=generator(seed, "tests", "puvae"))


def vae(sigma=0.0, shape=SHAPE, classes=4):
    """A small one, with weights so large that the class and the code matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ConditionalVAE(
            shape=shape, classes=classes, latent=5, width=4, hidden=16, sigma=sigma
        )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made.eval()


def reconstructed(model, x, k, noise):
    """The paper's network for one image under one class, from concatenations, layer by layer."""
    label = F.one_hot(torch.tensor([k]), model.fields["classes"]).float()
    units = model.second(model.first(torch.cat([model.maps(x[None]), label], dim=1)))
    code = model.mean(units) + F.softplus(model.deviation[0](units)) * noise
    return model.decoder(torch.cat([code, label], dim=1))[0]


def test_28x28_has_the_layers_of_the_paper():
    with torch.device("meta"):
        whole = ConditionalVAE()
    assert [whole.first.in_features, whole.first.out_features] == [32 * 28 * 28 + 10, 1024]
    assert (whole.mean.out_features, whole.fields["sigma"]) == (32, 0.1)
    model = ConditionalVAE(width=3, hidden=7)
    convolutions = [layer for layer in model.maps if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation for layer in convolutions] == [(2, 2)] * 3
    sizes, code = [], torch.zeros(1, 32 + 10)
    for layer in model.decoder:
        code = layer(code)
        if isinstance(layer, nn.ConvTranspose2d):
            sizes.append((*layer.kernel_size, *code.shape[1:]))
    assert sizes == [(7, 7, 3, 7, 7), (7, 7, 3, 14, 14), (7, 7, 3, 28, 28), (3, 3, 1, 28, 28)]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 17, 30), (1, 1, 3)])
def test_gives_images_of_the_same_shape(shape):
    x = images(3, shape)
    model = ConditionalVAE(shape=shape, classes=3, latent=7, width=2, hidden=8).eval()
    made, chosen = model.project(x)
    assert made.shape == x.shape
    assert made.min() > 0
    assert made.max() < 1
    assert chosen.shape == (3,)
    mean, deviation = model.posterior(x, torch.zeros(3, 2, dtype=torch.int64))
    assert mean.shape == deviation.shape == (3, 2, 7)
    assert deviation.min() > 0


def test_the_padding_is_cut_where_it_was_put():
    # 6x5 is rows 1 to 6 and columns 1 to 5 of 8x8.
    x = images(4, (1, 6, 5))
    model, same = vae(shape=(1, 6, 5)), vae(shape=(1, 8, 8))
    y = torch.tensor([[0], [1], [2], [3]])
    inside = same.posterior(F.pad(x, (1, 2, 1, 1)), y)
    torch.testing.assert_close(model.posterior(x, y), inside, rtol=0, atol=0)
    made = same.decode(inside[0], y)[..., 1:7, 1:6]
    assert torch.equal(model.decode(inside[0], y), made)


def test_one_image_and_class_at_a_time_gives_the_same():
    model, x, keys = vae(sigma=0.3), images(6), torch.arange(6)
    with reseeded(model, keys), torch.no_grad():
        found, distances = model.candidates(x)
        made, chosen = model.project(x)
    noise = 0.3 * hashed_normal(subkeys(keys, 0), torch.zeros_like(keys), (4, 5))
    for n in range(len(x)):
        with torch.no_grad():
            each = [reconstructed(model, x[n], k, noise[n, k]) for k in range(4)]
        root = [((one - x[n]) ** 2).mean().sqrt().item() for one in each]
        torch.testing.assert_close(found[n], torch.stack(each))
        torch.testing.assert_close(distances[n], torch.tensor(root))
        best = min(range(4), key=root.__getitem__)
        assert chosen[n] == best
        torch.testing.assert_close(made[n], each[best])
    assert chosen.unique().numel() > 1  # else any choice would pass


def test_what_it_drew_itself_is_drawn_to_its_class():
    model = vae()
    y = torch.arange(4)[:, None]
    with torch.no_grad():
        x = model.decode(torch.zeros(4, 1, 5), y).squeeze(1)
        for layer in (model.mean, model.deviation[0]):  # every image has the code 0
            layer.weight.zero_()
            layer.bias.zero_()
        made, chosen = model.project(x)
    assert chosen.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(made, x)


def test_without_noise_it_is_deterministic_and_declares_none():
    model, x = vae(), images(4)
    assert torch.equal(model(x), model(x))
    assert random_modules(model) == []


def test_noise_follows_from_the_keys_and_each_class_has_its_own():
    model, x, keys = vae(sigma=0.5), images(4), torch.arange(4)
    with torch.no_grad(), reseeded(model, keys):
        first, again, noise = model(x), model(x), model._noise(x)
    assert torch.equal(first, again)
    assert noise.unique().numel() == noise.numel() == 4 * 4 * 5
    with torch.no_grad(), reseeded(model, keys + 9):
        assert not torch.equal(first, model(x))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_neighbours_do_not_matter(sigma):
    assert neighbour_change(vae(sigma=sigma), images(7)) < 1e-5


def test_the_gradient_is_that_of_the_chosen_branch():
    model, x = vae().double(), images(5).double()
    made, chosen = model.project(x.requires_grad_())
    (gradient,) = torch.autograd.grad(made.square().sum(), x)
    for n in range(5):
        alone = x[n].detach().requires_grad_()
        value = reconstructed_double(model, alone, int(chosen[n])).square().sum()
        torch.testing.assert_close(gradient[n], torch.autograd.grad(value, alone)[0])
    # And it is what the projection does nearby, where the choice stays.
    step = 1e-6 * torch.sign(gradient)
    with torch.no_grad():
        ahead, behind = (model(x + sign * step).square().sum() for sign in (1, -1))
    torch.testing.assert_close((ahead - behind) / 2e-6, gradient.abs().sum(), rtol=1e-5, atol=0)


def test_the_soft_choice_is_a_mixture_that_hardens_to_the_projection(monkeypatch):
    model, x = vae(), images(5)
    with torch.no_grad():
        made, distances = model.candidates(x)
        tau = 0.3 * distances.std(dim=1, keepdim=True)
        weights = torch.exp((distances.amin(dim=1, keepdim=True) - distances) / tau)
        weights /= weights.sum(dim=1, keepdim=True)
        mixture = torch.einsum("nk,nkchw->nchw", weights, made)
        torch.testing.assert_close(model.surrogate(x), mixture)
        monkeypatch.setattr("bezoar.models.puvae.SOFTNESS", 1e-5)
        torch.testing.assert_close(model.surrogate(x), model(x))


def reconstructed_double(model, x, k):
    code = model.posterior(x[None], torch.tensor([[k]]))[0]
    return model.decode(code, torch.tensor([[k]]))[0, 0]


class TestGuarded:
    def guarded(self, sigma=0.1):
        network = create("lenet-fig4", shape=SHAPE, classes=4, seed=0)
        return Purified(purifier=vae(sigma=sigma), network=network).eval()

    def test_is_a_model_file_of_parts(self, tmp_path):
        model, path = self.guarded(), tmp_path / "guarded.safetensors"
        checkpoints.save(path, model, classes=("a", "b", "c", "d"))
        loaded = checkpoints.load(path).model
        assert weights_hash(loaded) == weights_hash(model)
        x, keys = images(5), torch.arange(5)
        with torch.no_grad(), reseeded(model, keys), reseeded(loaded, keys):
            assert torch.equal(loaded(x), model(x))

    def test_attacks_go_through_the_soft_choice(self):
        model, x = self.guarded(sigma=0.0), images(6)
        with torch.no_grad():
            made = model.purifier(x)
        upstream, x = self.gradient(model.network, made), x.requires_grad_()
        (expected,) = torch.autograd.grad(model.purifier.surrogate(x), x, upstream)
        torch.testing.assert_close(self.gradient(prepare(model), x.detach()), expected)

    def test_another_gradient_is_one_line(self):
        # As the page of the method says it.
        model, x = self.guarded(sigma=0.0), images(6)
        exact = self.gradient(model, x)
        with torch.no_grad():
            made = model.purifier(x)
        model.purifier.surrogate = model.purifier.forward
        torch.testing.assert_close(self.gradient(prepare(model), x), exact)
        model.purifier.surrogate = lambda x: x
        identity = self.gradient(model.network, made)
        torch.testing.assert_close(self.gradient(prepare(model), x), identity)
        assert not torch.allclose(exact, identity)

    def gradient(self, model, x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"latent": 0}, "latent=0: expected an integer from 1"),
        ({"width": 2.5}, "width=2.5: expected an integer from 1"),
        ({"hidden": -1}, "hidden=-1: expected an integer from 1"),
        ({"classes": 1}, "classes=1: expected an integer from 2"),
        ({"sigma": -1.0}, "sigma=-1.0: expected a number at least 0"),
        ({"shape": (1, 0, 4)}, r"shape=\(1, 0, 4\): expected"),
    ],
)
def test_refuses_what_makes_no_network(fields, said):
    with pytest.raises(ValueError, match=said):
        ConditionalVAE(**fields)
