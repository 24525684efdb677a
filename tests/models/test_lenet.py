import pytest
import torch
from torch import nn

from bezoar.models import MODELS, LeNet5, LeNet6x16, LeNet32x64, create
from bezoar.models.lenet import C3_TABLE, Subsampling, squash
from bezoar.seeds import generator

KINDS = sorted(MODELS)
SHAPES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (3, 5, 41), (1, 1, 1), (2, 33, 37)]


def images(*shape):
    return torch.rand(4, *shape, generator=generator(0, "tests", "images"))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        MODELS["lenet5"] = nn.Linear


@pytest.mark.parametrize("kind", KINDS)
class TestEveryNetwork:
    def test_has_its_name_in_the_table(self, kind):
        assert MODELS[kind].kind == kind

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_takes_images_of_any_size_and_gives_a_logit_a_class(self, kind, shape):
        model = create(kind, shape=shape, classes=7, seed=0).eval()
        logits = model(images(*shape))
        assert logits.shape == (4, 7)
        assert torch.isfinite(logits).all()

    def test_every_pixel_has_a_gradient_even_where_images_are_padded(self, kind):
        model = create(kind, shape=(1, 8, 8), classes=3, seed=0).eval().double()
        x = images(1, 8, 8).double().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
        assert (gradient != 0).any(dim=0).all()

    def test_its_fields_build_it_again(self, kind):
        model = create(kind, shape=(3, 9, 11), classes=4, seed=0, mean=[0.1, 0.2, 0.3])
        again = create(kind, seed=0, **model.fields)
        assert again.fields == model.fields
        assert model.fields["mean"] == [0.1, 0.2, 0.3]
        assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))

    def test_normalises_each_channel_by_its_own_numbers(self, kind):
        plain = create(kind, shape=(2, 32, 32), classes=3, seed=0).eval()
        fields = {"mean": [0.5, 0.25], "std": [2.0, 0.5]}
        scaled = create(kind, shape=(2, 32, 32), classes=3, seed=0, **fields).eval()
        x = images(2, 32, 32)
        by_hand = torch.stack([(x[:, 0] - 0.5) / 2.0, (x[:, 1] - 0.25) / 0.5], dim=1)
        torch.testing.assert_close(scaled(x), plain(by_hand))

    def test_an_image_does_not_depend_on_its_neighbours(self, kind):
        model = create(kind, shape=(1, 12, 12), classes=3, seed=0).eval()
        x = images(1, 12, 12)
        torch.testing.assert_close(model(x)[:1], model(x[:1]))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("shape", (1, 28)),
            ("shape", (0, 28, 28)),
            ("shape", (1, 28, 10**9)),
            ("shape", (1, 28, 28.0)),
            ("classes", 1),
            ("classes", True),
            ("classes", 10**12),
            ("mean", [0.1, 0.2]),
            ("mean", [float("nan")]),
            ("mean", ["0.1"]),
            ("std", [0.0]),
            ("std", [float("inf")]),
        ],
        ids=str,
    )
    def test_refuses_what_it_cannot_be_built_with(self, kind, field, value):
        arguments = {"shape": (1, 28, 28), "classes": 10} | {field: value}
        with pytest.raises(ValueError, match=rf"{field}=.*: expected"):
            MODELS[kind](**arguments)


class TestLeNet5:
    def test_has_the_sixty_thousand_parameters_of_1998(self):
        # LeCun et al. (1998), section II.B, layer by layer; C3 counts its connections only.
        model = LeNet5()
        c3 = int(model.c3.table.sum()) * 25 + 16
        assert count(model.c1) == 156
        assert count(model.s2) == 12
        assert c3 == 1516
        assert count(model.s4) == 32
        assert count(model.c5) == 48_120
        assert count(model.f6) == 10_164
        assert 156 + 12 + c3 + 32 + 48_120 + 10_164 == 60_000

    def test_its_maps_look_at_the_sets_that_the_paper_describes(self):
        sets = ["".join(str(i) for i in range(6) if C3_TABLE[i][k] == "X") for k in range(16)]
        threes = ["012", "123", "234", "345", "045", "015"]
        fours = ["0123", "1234", "2345", "0345", "0145", "0125"]
        broken = ["0134", "1245", "0235"]
        assert sets == [*threes, *fours, *broken, "012345"]

    @pytest.mark.parametrize(
        "optimizer",
        [
            lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        ],
        ids=["adam", "adamw", "sgd"],
    )
    def test_connections_outside_the_table_stay_zero_in_training(self, optimizer):
        model = create("lenet5", shape=(1, 8, 8), classes=3, seed=0)
        before = model.c3.weight.detach().clone()
        step = optimizer(model.parameters())
        for _ in range(3):
            step.zero_grad()
            nn.functional.cross_entropy(model(images(1, 8, 8)), torch.arange(4) % 3).backward()
            step.step()
        absent = (model.c3.table == 0).expand_as(before)
        assert absent.sum() == 36 * 25
        assert (model.c3.weight[absent] == 0).all()
        assert (model.c3.weight != before)[~absent].any()

    def test_a_weight_outside_the_table_is_not_used(self):
        model = create("lenet5", shape=(1, 8, 8), classes=3, seed=0)
        x = images(1, 8, 8)
        before = model(x)
        model.c3.weight.data += 100 * (1 - model.c3.table)
        assert torch.equal(model(x), before)

    def test_built_without_a_seed_it_has_no_weights_outside_the_table_either(self):
        model = LeNet5()
        assert (model.c3.weight * (1 - model.c3.table) == 0).all()

    def test_28_by_28_images_are_padded_by_two_on_each_side(self):
        x = images(1, 28, 28)
        framed = nn.functional.pad(x, (2, 2, 2, 2))
        small = create("lenet5", shape=(1, 28, 28), classes=3, seed=0, mean=[0.3])
        large = create("lenet5", shape=(1, 32, 32), classes=3, seed=0, mean=[0.3])
        assert torch.equal(small(x), large(framed))

    def test_subsampling_is_the_mean_times_a_coefficient_plus_a_bias(self):
        layer = Subsampling(2)
        layer.coefficient.data = torch.tensor([2.0, 1.0])
        layer.bias.data = torch.tensor([0.5, -1.0])
        x = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).expand(1, 2, 2, 2)
        expected = torch.tensor([6.5, 2.0]).reshape(1, 2, 1, 1)
        torch.testing.assert_close(layer(x), expected)

    def test_the_sigmoid_passes_through_plus_and_minus_one(self):
        a = torch.tensor([-1.0, 0.0, 1.0])
        torch.testing.assert_close(squash(a), a, atol=1e-4, rtol=0)


class TestFigure3:
    def test_has_the_parameters_of_the_layers_in_the_figure(self):
        model = LeNet32x64()
        assert count(model.conv1) == 32 * 9 + 32
        assert count(model.conv2) == 64 * 32 * 9 + 64
        assert count(model.hidden) == 64 * 12 * 12 * 128 + 128
        assert count(model.output) == 128 * 10 + 10

    def test_pooling_before_the_relu_gives_the_function_of_the_figure(self):
        model = create("lenet-fig3", shape=(1, 28, 28), classes=10, seed=0).eval()
        x = images(1, 28, 28).requires_grad_()
        stack = nn.Sequential(
            *(model.conv1, nn.ReLU(), model.conv2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(model.hidden, nn.ReLU(), model.output),
        )
        assert torch.equal(model(x), stack(x))
        ours, theirs = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (model, stack))
        torch.testing.assert_close(ours, theirs)

    def test_drops_units_in_training_only(self):
        model = create("lenet-fig3", shape=(1, 8, 8), classes=3, seed=0)
        x = images(1, 8, 8)
        with torch.random.fork_rng():
            assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


class TestFigure4:
    def test_has_the_parameters_of_the_layers_in_the_figure(self):
        model = LeNet6x16()
        assert count(model.conv1) == 6 * 9 + 6
        assert count(model.conv2) == 16 * 6 * 9 + 16
        assert count(model.hidden1) == 16 * 5 * 5 * 120 + 120
        assert count(model.hidden2) == 120 * 84 + 84
        assert count(model.output) == 84 * 10 + 10

    def test_8_by_8_images_are_padded_with_black_to_10_by_10(self):
        x = images(1, 8, 8)
        framed = nn.functional.pad(x, (1, 1, 1, 1))
        small = create("lenet-fig4", shape=(1, 8, 8), classes=3, seed=0, mean=[0.3])
        large = create("lenet-fig4", shape=(1, 10, 10), classes=3, seed=0, mean=[0.3])
        assert torch.equal(small(x), large(framed))
