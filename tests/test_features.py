import pytest
import torch
from torch import nn

from bezoar.features import features, head
from bezoar.models import create


def test_the_head_reads_the_logits_from_the_features():
    model = create("preact-resnet", shape=(3, 8, 8), classes=4, seed=0, width=2).eval()
    x = torch.rand(5, 3, 8, 8)
    found, logits = features(model, x, batch=2)
    assert found.shape == (5, 16)
    assert head(model, x) is model.output
    torch.testing.assert_close(model.output(found), logits)
    torch.testing.assert_close(model(x), logits)


def test_the_last_linear_layer_is_the_one_that_runs_last(batch):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(6, 3), nn.Linear(20, 6)

        def forward(self, x):
            return self.last(self.first(x.flatten(1)).relu())

    model = Turned()
    assert head(model, batch[0]) is model.last
    assert features(model, batch[0])[0].shape == (12, 6)


def test_leaves_modes_flags_and_hooks_alone(small_convnet, batch):
    small_convnet.train()
    features(small_convnet, batch[0])
    assert small_convnet.training
    assert all(parameter.requires_grad for parameter in small_convnet.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small_convnet.modules())


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((nn.Flatten(),), "no linear layer"),
        ((nn.Flatten(), nn.Linear(20, 3), nn.ReLU()), "something after the last linear layer"),
    ],
)
def test_refuses_a_network_whose_logits_come_from_elsewhere(batch, layers, said):
    with pytest.raises(ValueError, match=f"{said}: expected logits from one"):
        head(nn.Sequential(*layers), batch[0])
