"""NAD: the stages, the attention maps and their distance, and fine-tuning without them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.models import create
from bezoar.repairs import NAD, FineTune
from bezoar.repairs.nad import attention, attentive, stages_of
from bezoar.seeds import generator

SHORT = {"epochs": 3, "batch": 16, "lr": 0.05}


@pytest.fixture
def residual():
    return create("preact-resnet", shape=(1, 16, 16), classes=4, seed=0, width=2, blocks=[2] * 4)


@pytest.fixture
def x():
    return torch.rand(6, 1, 16, 16, generator=generator(0, "tests", "nad"))


def test_without_attention_it_is_fine_tuning_step_for_step(network, evidence):
    found = NAD(beta=0, teacher_epochs=2, **SHORT)(network, evidence, seed=3)
    plain = FineTune(**SHORT)(network, evidence, seed=3)
    assert weights_hash(found.classifier) == weights_hash(plain.classifier)
    student = [row["clean"] for row in found.log if row["part"] == 2]
    assert student == [row["clean"] for row in plain.log[1:]]


def test_the_teacher_is_fine_tuned_first(network, evidence):
    found = NAD(teacher_epochs=2, **SHORT)(network, evidence, seed=3)
    taught = FineTune(**{**SHORT, "epochs": 2})(network, evidence, seed=3)
    teacher = [row["clean"] for row in found.log if row["part"] == 1]
    assert teacher == [row["clean"] for row in taught.log]


def test_the_stages_are_the_last_convolutions_of_the_last_three_sizes(residual, x):
    # The fourth stage is left for one that is 2 x 2; the first, 16 x 16, is not among them.
    names = [f"stages.{block}.conv2" for block in (3, 5, 7)]
    assert stages_of(residual, x[:1]) == names


def test_a_network_of_one_size_has_one_stage(x):
    convs = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 1)]
    assert stages_of(nn.Sequential(*convs), x[:1]) == ["2"]


def test_attention_is_the_squared_energy_of_the_maps_with_norm_one():
    maps = torch.tensor([[[[1.0, 0.0]], [[1.0, 2.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    expected = torch.tensor([[2.0, 4.0], [0.0, 0.0]]) / 20**0.5
    torch.testing.assert_close(attention(maps), expected)


def test_the_deeper_stages_have_the_whole_weight_and_the_shallowest_half(residual, x):
    teacher = create("preact-resnet", shape=(1, 16, 16), classes=4, seed=1, width=2, blocks=[2] * 4)
    y, names = torch.arange(6) % 4, stages_of(residual, x[:1])
    seen = {}
    for which, network in (("student", residual), ("teacher", teacher.eval())):
        for name in names:
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, key=(which, name): seen.update({key: output})
            )
    found = attentive(teacher, names, 100.0, Meter())(residual, x, y, torch.arange(6))
    distances = []
    for name in names:
        first, second = (
            seen[which, name].square().sum(1).flatten(1) for which in ("student", "teacher")
        )
        parts = [part / part.norm(dim=1, keepdim=True) for part in (first, second)]
        distances.append((parts[0] - parts[1]).square().mean())
    plain = F.cross_entropy(residual(x), y)
    expected = plain + 50 * distances[0] + 100 * distances[1] + 100 * distances[2]
    torch.testing.assert_close(found, expected)
    assert found > plain


def test_a_student_like_its_teacher_has_nothing_to_learn_of_it(residual, x):
    names, y = stages_of(residual, x[:1]), torch.arange(6) % 4
    found = attentive(residual.eval(), names, 1e6, Meter())(residual, x, y, torch.arange(6))
    torch.testing.assert_close(found, F.cross_entropy(residual(x), y))


def test_nothing_watches_the_student_afterwards(network, evidence):
    repaired = NAD(teacher_epochs=1, **SHORT)(network, evidence, seed=0).classifier
    assert not any(module._forward_hooks for module in repaired.modules())


def test_refuses_a_network_without_convolutions(evidence):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="Sequential without a convolution: expected a conv"):
        NAD()(model, evidence, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta": -1.0}, r"beta=-1\.0: expected a number at least 0"),
        ({"teacher_epochs": 0}, "teacher_epochs=0: expected an integer >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        NAD(**setting)
