import pytest
import torch
from torch import nn


@pytest.fixture
def convnet(small_convnet, batch):
    """The small network with its mean logits taken away, so that all its borders are near."""
    with torch.no_grad():
        small_convnet[3].bias -= small_convnet(batch[0]).mean(dim=0)
    return small_convnet


# Class k reads its own four pixels only. Lowering those of class y and raising all others raises
# every rival at once, so the corner of the ball that PGD walks to is the worst there is, and an
# image falls just when margin_j / ||w_y - w_j||_1 < eps for some rival j.
OWN = torch.tensor([[1.0, -2.0, 3.0, -4.0], [2.0, 2.0, -2.0, 2.0], [-2.0, 2.0, 1.0, -1.0]])
RADII = [0.02, 0.04, 0.06, 0.08, 0.12, 0.14, 0.16, 0.18]


@pytest.fixture
def blocks():
    layer = nn.Linear(12, 3, bias=False)
    layer.weight.data = torch.block_diag(*OWN)
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


@pytest.fixture
def radii():
    return torch.tensor(RADII)


@pytest.fixture
def images(blocks):
    """Images of class 1 whose distance from the border to class 0 is RADII; class 2 is farther."""
    weight = blocks[1].weight.detach()
    margins = torch.tensor(RADII) * (10 + 8)  # ||w_1 - w_0||_1 = 8 + 10
    x = torch.full((8, 12), 0.5)
    logits = x @ weight.T
    # Class 0 is held at 0 and class 2 far below by their own pixels, class 1 gets its margin.
    x[:, :4] -= logits[:, :1] * OWN[0] / OWN[0].square().sum()
    x[:, 8:] -= (logits[:, 2:] + 1.2) * OWN[2] / OWN[2].square().sum()
    x[:, 4:8] += (margins[:, None] - logits[:, 1:2]) * OWN[1] / OWN[1].square().sum()
    return x.reshape(8, 1, 3, 4)
