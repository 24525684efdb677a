import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import checkpoints
from bezoar.classifier import weights_hash
from bezoar.folding import folded
from bezoar.models import VGG, ShallowVGG, create
from bezoar.seeds import generator


def images(*shape):
    return torch.rand(4, *shape, generator=generator(0, "tests", "images"))


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def planned(network, **fields):
    """A network without memory, to count its parameters."""
    with torch.device("meta"):
        return network(**fields)


def small(kind, **fields):
    return create(kind, **{"shape": (1, 9, 11), "classes": 3, "seed": 0, "width": 2} | fields)


def kinds_of(layers):
    letters = {nn.Conv2d: "c", nn.BatchNorm2d: "n", nn.ReLU: "r", nn.MaxPool2d: "p"}
    return "".join(letters[type(layer)] for layer in layers)


class TestVGG:
    def test_its_thirteen_convolutions_have_the_parameters_of_configuration_d(self):
        assert count(planned(VGG).features) == 14_714_688

    @pytest.mark.parametrize(
        ("depth", "norm", "parameters"),
        [
            (16, False, 138_357_544),
            (16, True, 138_365_992),
            (19, False, 143_667_240),
            (19, True, 143_678_248),
        ],
    )
    def test_at_the_size_of_the_paper_it_has_the_known_parameters(self, depth, norm, parameters):
        sizes = {"shape": (3, 224, 224), "classes": 1000, "hidden": 4096}
        assert count(planned(VGG, depth=depth, norm=norm, **sizes)) == parameters

    def test_has_the_stages_of_configurations_d_and_e(self):
        assert kinds_of(VGG(width=1).features) == "crcrp" * 2 + "crcrcrp" * 3
        assert kinds_of(VGG(width=1, depth=19).features) == "crcrp" * 2 + "crcrcrcrp" * 3
        assert kinds_of(VGG(width=1, norm=True).features) == "cnrcnrp" * 2 + "cnrcnrcnrp" * 3

    def test_its_maps_are_1_2_4_8_8_times_its_width(self):
        layers = [layer for layer in VGG(width=3).features if isinstance(layer, nn.Conv2d)]
        assert [layer.out_channels for layer in layers] == [3] * 2 + [6] * 2 + [12] * 3 + [24] * 6
        assert {layer.kernel_size + layer.stride + layer.padding for layer in layers} == {
            (3, 3, 1, 1, 1, 1)
        }

    def test_28_by_28_images_are_padded_with_black_to_32_by_32(self):
        x = images(1, 28, 28)
        framed = F.pad(x, (2, 2, 2, 2))
        given = small("vgg", shape=(1, 28, 28), mean=[0.3])
        large = small("vgg", shape=(1, 32, 32), mean=[0.3])
        assert torch.equal(given.eval()(x), large.eval()(framed))

    def test_what_the_poolings_leave_of_a_larger_image_is_taken_by_the_hidden_units(self):
        model = small("vgg", shape=(1, 65, 100))
        assert model.hidden[0].in_features == 16 * 2 * 3
        assert model.eval()(images(1, 65, 100)).shape == (4, 3)

    @pytest.mark.parametrize("depth", [16, 19])
    def test_the_signal_neither_vanishes_nor_explodes_on_its_way(self, depth):
        size = {"shape": (3, 32, 32), "width": 16, "depth": depth}
        model = small("vgg", **size, mean=[0.5] * 3, std=[1 / math.sqrt(12)] * 3).eval()
        squares = []
        for layer in (*model.features, *model.hidden):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(lambda _, __, a: squares.append(a.square().mean()))
        with torch.no_grad():
            model(images(3, 32, 32))
        assert len(squares) == depth - 1
        assert min(squares) > 0.05
        assert max(squares) < 20

    def test_weights_that_a_relu_follows_have_the_variance_of_he(self):
        state = create("vgg", shape=(3, 32, 32), classes=10, seed=0, width=16).state_dict()
        for name in ("features.2.weight", "features.28.weight", "hidden.3.weight"):
            bound = math.sqrt(6 / state[name][0].numel())
            assert 0.95 * bound < state[name].abs().max() <= bound
            assert state[name].var().item() == pytest.approx(bound**2 / 3, rel=0.1)

    def test_without_norm_and_dropout_training_computes_the_same(self):
        model = small("vgg", dropout=0)
        x = images(1, 9, 11)
        assert torch.equal(model.train()(x), model.eval()(x))

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("depth", 11, "depth=11: expected one of 16, 19"),
            ("depth", 16.0, r"depth=16\.0: expected one of 16, 19"),
            ("depth", [16], r"depth=\[16\]: expected one of 16, 19"),
            ("norm", 1, "norm=1: expected true or false"),
            ("norm", "batch", "norm='batch': expected true or false"),
            ("hidden", 0, "hidden=0: expected an integer from 1"),
            ("dropout", 1, "dropout=1: expected a number from 0 to below 1"),
            ("dropout", -0.1, r"dropout=-0\.1: expected a number from 0 to below 1"),
            ("dropout", float("nan"), "dropout=nan: expected a number from 0 to below 1"),
            ("dropout", "0.5", r"dropout='0\.5': expected a number from 0 to below 1"),
            ("dropout", True, "dropout=True: expected a number from 0 to below 1"),
        ],
    )
    def test_refuses_what_there_is_not(self, field, value, message):
        with pytest.raises(ValueError, match=message):
            VGG(**{field: value})


class TestShallowVGG:
    def test_has_the_parameters_of_the_layers_in_the_paper(self):
        model = planned(ShallowVGG, shape=(1, 32, 32))
        steps = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
        convolutions = sum(9 * n * m + m for n, m in [*steps, (512, 512)])
        norms = 2 * 2 * (64 + 128 + 256 + 512)
        assert count(model.features) == convolutions + norms
        assert count(model.hidden) == 2048 * 4096 + 4096 + 4096 * 4096 + 4096
        assert count(model) == 29_903_050

    def test_has_four_blocks_of_two_convolutions(self):
        assert kinds_of(ShallowVGG(width=1).features) == "cnrcnrp" * 4

    def test_a_quarter_of_the_width_is_a_quarter_of_all_maps_and_units(self):
        whole, quarter = (planned(ShallowVGG, width=width) for width in (64, 16))
        for name, value in quarter.state_dict().items():
            if name.endswith("weight") and name.startswith(("features", "hidden")):
                assert 4 * len(value) == len(whole.state_dict()[name])

    def test_28_by_28_images_are_enlarged_to_32_by_32_as_the_paper_does(self):
        x = images(1, 28, 28)
        resized = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
        given, large = (small("vgg-8conv", shape=(1, side, side)).eval() for side in (28, 32))
        assert torch.equal(given(x), large(resized))

    def test_sides_are_enlarged_to_multiples_of_sixteen_and_no_further(self):
        shapes = {(1, 1): (16, 16), (16, 33): (16, 48), (48, 64): (48, 64)}
        for sides, enlarged in shapes.items():
            model = small("vgg-8conv", shape=(1, *sides))
            assert model.enlarge(images(1, *sides)).shape[2:] == enlarged


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("vgg", {}),
        ("vgg", {"norm": True}),
        ("vgg", {"depth": 19, "norm": True, "hidden": 5, "dropout": 0.25}),
        ("vgg-8conv", {}),
    ],
    ids=str,
)
class TestBoth:
    def test_its_weights_follow_from_the_seed_alone(self, kind, fields):
        first, again, other = (small(kind, seed=seed, **fields) for seed in (3, 3, 4))
        assert weights_hash(first) == weights_hash(again)
        assert weights_hash(first) != weights_hash(other)

    def test_drops_units_in_training_only(self, kind, fields):
        model = small(kind, **fields)
        x = images(1, 9, 11)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))

    def test_comes_back_from_its_file(self, kind, fields, tmp_path):
        model, path = small(kind, **fields), tmp_path / "model.safetensors"
        checkpoints.save(path, model, classes=("a", "b", "c"))
        loaded = checkpoints.load(path)
        x = images(1, 9, 11)
        assert loaded.fields == model.fields
        assert loaded.fields.items() >= fields.items()
        assert torch.equal(loaded.model(x), model.eval()(x))

    def test_batch_normalisation_folds_into_the_convolutions(self, kind, fields):
        model = small(kind, **fields).eval().requires_grad_(False)
        x = images(1, 9, 11)
        made = folded(model, x)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
        torch.testing.assert_close(made(x), model(x))


@pytest.mark.parametrize("network", [VGG, ShallowVGG])
@pytest.mark.parametrize("width", [0, 1.5, True, 2**20])
def test_a_width_that_is_none_is_refused(network, width):
    with pytest.raises(ValueError, match=rf"width={width}: expected an integer from 1 to 16384"):
        network(width=width)
