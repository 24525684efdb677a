from copy import deepcopy

import pytest
import torch
from torch import nn

from bezoar.classifier import (
    Normalise,
    device_of,
    from_probabilities,
    frozen,
    laid_out,
    neighbours_matter,
    outputs_random,
    predict,
    prepare,
    require,
    said,
    weights_hash,
)


@pytest.fixture
def mixed():
    """Layers in both modes, weights with and without gradient, buffers, an inner block."""
    block = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), block, nn.Flatten(), nn.Linear(24, 3)).train()
    block[0].eval()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    model[3].bias.grad = torch.ones(3)
    return model


def modes(model):
    return [module.training for module in model.modules()]


def flags(model):
    return [parameter.requires_grad for parameter in model.parameters()]


class AlwaysTraining(nn.BatchNorm2d):
    """Batch norm that takes its statistics from the batch in every mode."""

    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True)


class AlwaysDropping(nn.Module):
    """Dropout that stays on in eval mode."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Constant(nn.Module):
    """Gives every image the same output; has no parameters."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return torch.tensor(self.logits).repeat(len(x), 1)


class TestNormalise:
    def test_by_hand(self):
        x = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
        expected = torch.tensor([0.0, 2.5]).reshape(1, 2, 1, 1)
        torch.testing.assert_close(Normalise([0.5, 0.5], [0.1, 0.2])(x), expected)

    def test_its_numbers_travel_with_the_weights(self):
        assert sorted(Normalise([0.5], [0.1]).state_dict()) == ["mean", "std"]

    @pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
    def test_refuses_a_deviation_that_is_none(self, std):
        with pytest.raises(ValueError, match=rf"std={std!r}: expected a number above 0"):
            Normalise([0.5], [std])

    @pytest.mark.parametrize(("mean", "std"), [([0.5], [0.1, 0.2]), ([], []), ([0.1, 0.2], [1.0])])
    def test_refuses_unequal_channels(self, mean, std):
        found = rf"mean of {len(mean)} and std of {len(std)} channels"
        with pytest.raises(ValueError, match=found):
            Normalise(mean, std)


class TestFrozen:
    def test_inside_everything_is_in_eval_mode_without_gradients(self, mixed):
        with frozen(mixed) as held:
            assert held is mixed
            assert not any(modes(mixed))
            assert not any(flags(mixed))

    def test_afterwards_each_layer_has_its_mode_and_each_weight_its_flag(self, mixed):
        before = modes(mixed), flags(mixed)
        with frozen(mixed):
            pass
        assert (modes(mixed), flags(mixed)) == before
        assert mixed[3].bias.grad.tolist() == [1, 1, 1]

    def test_restores_after_an_exception_too(self, mixed):
        before = modes(mixed), flags(mixed)
        with pytest.raises(KeyError), frozen(mixed):
            raise KeyError
        assert (modes(mixed), flags(mixed)) == before

    def test_nests(self, mixed):
        before = modes(mixed), flags(mixed)
        with frozen(mixed), frozen(mixed):
            pass
        assert (modes(mixed), flags(mixed)) == before

    def test_moves_no_statistics(self, mixed, batch):
        before = weights_hash(mixed)
        with frozen(mixed):
            mixed(batch[0])
        assert weights_hash(mixed) == before


class TestPrepare:
    def test_leaves_the_original_alone(self, mixed):
        before = modes(mixed), flags(mixed), weights_hash(mixed)
        strides = [parameter.stride() for parameter in mixed.parameters()]
        copy = prepare(mixed)
        with torch.no_grad():
            copy[0].weight.zero_()
        assert (modes(mixed), flags(mixed), weights_hash(mixed)) == before
        assert [parameter.stride() for parameter in mixed.parameters()] == strides

    def test_gives_the_same_logits(self, mixed, batch):
        with torch.no_grad():
            torch.testing.assert_close(prepare(mixed)(batch[0]), mixed.eval()(batch[0]))

    def test_the_copy_is_frozen_and_has_the_hash_of_the_original(self, mixed):
        copy = prepare(mixed)
        assert not any(modes(copy))
        assert not any(flags(copy))
        assert weights_hash(copy) == weights_hash(mixed)


class TestWeightsHash:
    def test_is_equal_for_copies_in_any_memory_format_and_mode(self, mixed):
        names = {
            weights_hash(mixed),
            weights_hash(deepcopy(mixed)),
            weights_hash(deepcopy(mixed).to(memory_format=torch.channels_last)),
            weights_hash(deepcopy(mixed).eval().requires_grad_(False)),
        }
        assert len(names) == 1
        assert len(names.pop()) == 16

    def test_one_bit_of_any_entry_changes_it(self, mixed):
        names = {weights_hash(mixed)}
        for entry in mixed.state_dict().values():
            bits = entry.view(-1).view(torch.uint8)
            bits[0] ^= 1
            names.add(weights_hash(mixed))
            bits[0] ^= 1
        assert len(names) == 1 + len(mixed.state_dict())

    def test_name_type_and_shape_change_it(self):
        def named(name, value):
            module = nn.Module()
            module.register_buffer(name, value)
            return module

        models = [
            named("a", torch.zeros(4)),
            named("b", torch.zeros(4)),
            named("a", torch.zeros(2, 2)),
            named("a", torch.zeros(4, dtype=torch.int32)),
            named("a", torch.zeros(5)),
            named("a", torch.tensor(0.0)),
            named("a", torch.zeros(0, 3)),
            named("a", torch.zeros(4, dtype=torch.bool)),
            named("a", torch.zeros(2, dtype=torch.bfloat16)),
        ]
        assert len(set(map(weights_hash, models))) == len(models)

    def test_the_sign_of_a_zero_is_a_bit_too(self, linear):
        before = weights_hash(linear)
        with torch.no_grad():
            linear[1].bias[0] = 0.0
        positive = weights_hash(linear)
        with torch.no_grad():
            linear[1].bias[0] = -0.0
        assert len({before, positive, weights_hash(linear)}) == 3

    def test_the_order_of_definition_does_not_count(self):
        first, second = nn.Module(), nn.Module()
        first.a, first.b = nn.Linear(2, 2), nn.Linear(2, 2)
        second.b, second.a = first.b, first.a
        assert weights_hash(first) == weights_hash(second)


class TestPredict:
    def test_gives_the_logits_in_eval_mode_without_gradient_in_order(self, mixed, batch):
        x, _ = batch
        found = predict(mixed, x, batch=5)
        assert not found.requires_grad
        torch.testing.assert_close(found, mixed.eval()(x).detach())

    def test_leaves_modes_flags_and_statistics_alone(self, mixed, batch):
        before = modes(mixed), flags(mixed), weights_hash(mixed)
        predict(mixed, batch[0])
        assert (modes(mixed), flags(mixed), weights_hash(mixed)) == before

    def test_takes_a_classifier_without_parameters(self, batch):
        assert device_of(Constant(1.0, 0.0)).type == "cpu"
        assert predict(Constant(1.0, 0.0), batch[0]).tolist() == [[1.0, 0.0]] * 12


class TestRequire:
    def test_what_fits_passes(self, small_convnet, batch):
        require(small_convnet, batch[0], 3)
        require(small_convnet, batch[0][:1], 3)

    def test_images_are_checked_first(self, small_convnet, batch):
        with pytest.raises(ValueError, match=r"images with values in .*: expected \[0, 1\]"):
            require(small_convnet, batch[0] + 1, 3)

    def test_images_that_it_cannot_take_are_refused_with_its_reason(self, small_convnet):
        message = r"^images of shape \(3, 4, 5\): expected images that the classifier takes; .+$"
        with pytest.raises(ValueError, match=message) as error:
            require(small_convnet, torch.zeros(2, 3, 4, 5), 3)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("classes", [2, 4])
    def test_another_number_of_logits_is_refused(self, small_convnet, batch, classes):
        message = rf"classifier output of shape \(2, 3\): expected {classes} logits an image"
        with pytest.raises(ValueError, match=message):
            require(small_convnet, batch[0], classes)

    def test_an_output_that_is_no_matrix_is_refused(self, batch):
        with pytest.raises(ValueError, match=r"classifier output of shape \(2, 4, 5\)"):
            require(nn.Flatten(0, 1), batch[0], 3)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_an_output_that_is_not_finite_is_refused(self, batch, value):
        with pytest.raises(ValueError, match="output is not finite: expected logits"):
            require(Constant(0.0, value), batch[0], 2)

    def test_one_that_is_finite_for_some_images_is_taken(self, batch):
        class Steep(nn.Module):
            def forward(self, x):
                return (x[:, 0, 0, :2] - batch[0][5:6, 0, 0, :2]).sqrt()

        require(Steep(), torch.cat([0 * batch[0], batch[0][5:6]]), 2)
        with pytest.raises(ValueError, match="output is not finite: expected logits"):
            require(Steep(), 0 * batch[0], 2)


def test_a_class_is_said_where_all_logits_are_finite():
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, 1.0], [nan, 1.0], [1.0, inf], [-inf, 1.0]])
    assert said(logits).tolist() == [1, -1, -1, -1]


class TestDiagnoses:
    def test_images_without_an_answer_are_no_accusation(self, linear, batch):
        class Silent(nn.Module):
            def forward(self, x):
                return torch.where(x[:, :1, 0, 0] > 0.5, torch.nan, linear(x))

        assert not neighbours_matter(Silent(), batch[0])
        assert not outputs_random(Silent(), batch[0])

    def test_plain_networks_are_not_accused(self, linear, small_convnet, mixed, batch):
        x, _ = batch
        networks = (linear, small_convnet, mixed, Constant(0.0, 1.0))
        assert not any(neighbours_matter(network, x) for network in networks)
        assert not any(outputs_random(network, x) for network in networks)

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_neither_for_small_nor_for_large_logits(self, small_convnet, batch, scale):
        with torch.no_grad():
            small_convnet[3].weight *= scale
            small_convnet[3].bias *= scale
        assert not neighbours_matter(small_convnet, batch[0])
        assert not outputs_random(small_convnet, batch[0])

    def test_statistics_taken_from_the_batch_are_found(self, small_convnet, batch):
        model = nn.Sequential(AlwaysTraining(1), small_convnet)
        assert neighbours_matter(model, batch[0])
        assert not outputs_random(model, batch[0])

    def test_dropout_left_on_is_found(self, small_convnet, batch):
        model = nn.Sequential(AlwaysDropping(), small_convnet)
        assert outputs_random(model, batch[0])
        assert not neighbours_matter(model, batch[0])  # nobody can tell

    def test_noise_that_is_the_same_in_most_passes_is_found(self, batch):
        class Mostly(nn.Module):
            passes = 0

            def forward(self, x):
                self.passes += 1
                return x.flatten(1) + (self.passes == 7)

        assert outputs_random(Mostly(), batch[0])

    def test_probabilities_are_told_from_logits(self, small_convnet, batch):
        x, _ = batch
        assert from_probabilities(nn.Sequential(small_convnet, nn.Softmax(dim=1)), x) < 1e-6
        assert from_probabilities(small_convnet, x) > 0.01
        assert from_probabilities(nn.Sequential(small_convnet, nn.LogSoftmax(dim=1)), x) > 0.01
        assert from_probabilities(Constant(1.5, -0.5), x) == 0.5  # of sum 1, but below 0


@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "wide"),
    [(2, 1, 2, False), (15, 1, 2, False), (2, 1, 1, True), (2, 3, 2, True), (16, 1, 2, True)],
)
def test_weights_go_channels_last_but_where_the_library_would_write_beyond_its_memory(
    inputs, kernel, stride, wide
):
    # 1x1 kernels have no order to tell the layouts by: the other convolution shows it.
    first, second = nn.Conv2d(3, inputs, 3), nn.Conv2d(inputs, 4, kernel, stride=stride)
    network = laid_out(nn.Sequential(first, second))
    assert first.weight.is_contiguous(memory_format=torch.channels_last) == wide
    for count in (16, 23) * 25:
        network(torch.rand(count, 3, 34, 34)).sum().backward()
