import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from bezoar.channels import layers, scaled
from bezoar.classifier import weights_hash
from bezoar.models import create
from bezoar.seeds import generator


def images(count, channels=3):
    return torch.rand(count, channels, 8, 8, generator=generator(0, "tests", "channels"))


@pytest.fixture
def residual():
    """A pre-activation network with statistics and scales of its own."""
    model = create("preact-resnet", shape=(3, 8, 8), classes=4, seed=0, width=2, blocks=[1] * 4)
    rng = generator(0, "tests", "norms")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = torch.rand(tensor.shape, generator=rng) + 0.5
    return model.eval()


def test_pairs_a_convolution_with_the_norm_that_reads_it_and_no_other(residual):
    found = {layer.name: layer.norm_name for layer in layers(residual, images(1))}
    assert len(found) == 1 + 4 * 2 + 3
    assert found["conv"] == "stages.0.norm1"
    assert [found[f"stages.{k}.conv1"] for k in range(4)] == [f"stages.{k}.norm2" for k in range(4)]
    # What is added to the identity first is normalised as a sum, which is no channel of its own.
    assert {found[f"stages.{k}.conv2"] for k in range(4)} == {""}
    assert {found[f"stages.{k}.shortcut"] for k in range(1, 4)} == {""}


def test_a_silenced_channel_is_zero_after_its_norm(residual):
    layer = layers(residual, images(1))[1]
    seen = []
    layer.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer.silence([1])
    residual(images(5))
    assert (seen[0][:, 1] == 0).all()
    assert (seen[0][:, 0] != 0).any()


def test_a_bias_is_silenced_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    (layer,) = layers(model, images(1))
    layer.silence(torch.tensor([0, 3]))
    maps = model[0](images(2))
    assert (maps[:, [0, 3]] == 0).all()
    assert (maps[:, [1, 2]] != 0).any()


@pytest.mark.parametrize("inplace", [False, True])
def test_a_norm_behind_a_nonlinearity_does_not_normalise_the_convolution(inplace):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.BatchNorm2d(4))
    assert [layer.norm for layer in layers(model, images(1))] == [None]


def test_grouped_convolutions_have_channels_too():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)).eval()
    (layer,) = layers(model, images(1, channels=4))
    layer.silence([5])
    assert (model(images(2, channels=4))[:, 5] == 0).all()


def test_scales_of_one_change_nothing_and_of_zero_silence_up_to_the_shift(residual):
    found, x = layers(residual, images(1)), images(3)
    ones = [torch.ones(layer.channels) for layer in found]
    assert torch.equal(functional_call(residual, dict(scaled(found, ones, ones)), x), residual(x))
    off = [
        torch.zeros(layer.channels) if k == 1 else one
        for k, (layer, one) in enumerate(zip(found, ones, strict=True))
    ]
    gone = functional_call(residual, dict(scaled(found, off, off)), x)
    found[1].silence(range(found[1].channels))
    torch.testing.assert_close(gone, residual(x))


def test_leaves_the_network_alone(residual):
    before = weights_hash(residual.train())
    layers(residual, images(2))
    assert weights_hash(residual) == before
    assert residual.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in residual.modules())


def test_refuses_a_network_without_convolutions(linear, batch):
    with pytest.raises(ValueError, match="Sequential without a convolution: expected a conv"):
        layers(linear, batch[0])


def test_refuses_a_convolution_that_is_used_twice():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    with pytest.raises(ValueError, match="convolution '0' is used twice in a pass"):
        layers(nn.Sequential(shared, nn.ReLU(), shared), images(1))


def test_refuses_a_weight_that_is_computed():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))
    with pytest.raises(ValueError, match="convolution '0' with a computed weight"):
        layers(model, images(1))
