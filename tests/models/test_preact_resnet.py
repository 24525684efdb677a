import pytest
import torch
from torch import nn

from bezoar.models import PreActResNet, create
from bezoar.models.preact_resnet import Block


def test_eighteen_layers_of_width_64_have_the_parameters_of_the_paper():
    # 3x3 stem, 16 convolutions 3x3, three shortcuts 1x1, scale and shift of 17 norms, the output.
    model = create("preact-resnet", shape=(3, 32, 32), classes=10, seed=0, width=64)
    weights = sum(p.numel() for name, p in model.named_parameters() if "norm" not in name)
    stem, output = 9 * 3 * 64, 512 * 10 + 10
    stages = 9 * (4 * 64**2 + sum(m * m // 2 + 3 * m * m for m in (128, 256, 512)))
    shortcuts = sum(m * m // 2 for m in (128, 256, 512))
    assert weights == stem + stages + shortcuts + output


def test_a_block_without_weights_is_the_identity():
    block = Block(4, 4, 1)
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 5, 6)
    assert torch.equal(block(x), x)
    assert block.shortcut is None


def test_a_block_that_changes_the_size_has_a_shortcut():
    block = Block(4, 8, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(block(x), block.shortcut(torch.relu(block.norm1(x))))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 5, 9), (1, 1, 1)])
def test_takes_images_of_any_size(shape):
    model = create("preact-resnet", shape=shape, classes=3, seed=0, width=2, blocks=[1, 1, 1, 1])
    assert model.eval()(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "width=0: expected an integer from 1"),
        ("width", 1.5, "width=1.5: expected an integer"),
        ("blocks", [1, 1, 1], "expected four numbers, one a stage"),
        ("blocks", [1, 1, 0, 1], "blocks=0: expected an integer from 1"),
        ("shape", (3, 0, 32), "shape="),
    ],
)
def test_refuses_sizes_that_are_none(field, value, message):
    with pytest.raises(ValueError, match=message):
        PreActResNet(**{field: value})
