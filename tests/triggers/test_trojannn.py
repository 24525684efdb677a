import numpy as np
import pytest
import torch
from torch import nn

from bezoar.data.imageset import ImageSet
from bezoar.models import create
from bezoar.triggers import TrojanNN


@pytest.fixture
def images():
    return ImageSet(torch.zeros(2, 1, 4, 4), torch.arange(2), np.arange(2), ("a", "b"), "toy/train")


def network(first, last):
    """Two linear layers with the given weights, on images ``(1, 4, 4)``."""
    layers = nn.Linear(16, len(first), bias=False), nn.Linear(len(first), 2, bias=False)
    for layer, weight in zip(layers, (first, last), strict=True):
        layer.weight.data = torch.as_tensor(weight)
    return nn.Sequential(nn.Flatten(), *layers).eval()


def test_excites_the_neuron_that_the_last_layer_listens_to(images):
    # Neuron 1 has the larger weights, and sees the patch of 2 x 2 with these signs.
    first = torch.zeros(2, 4, 4)
    first[0, 2:, 2:] = 1.0
    first[1, 2:, 2:] = torch.tensor([[3.0, -3.0], [-3.0, 3.0]])
    model = network(first.reshape(2, 16), [[0.1, 1.0], [0.1, -1.0]])
    made = TrojanNN(size=2, neurons=1, steps=30).fit(model, images, target=0, seed=0)
    patch = made.learnt.tensors["patch"][0]
    assert patch[2:, 2:].tolist() == [[1, 0], [0, 1]]
    assert (patch[:2] == 0).all()
    assert (patch[:, :2] == 0).all()


def test_stops_rising_at_the_goal(images):
    first = torch.zeros(1, 4, 4)
    first[0, 2:, 2:] = 1.0
    model = network(first.reshape(1, 16), [[1.0], [-1.0]])
    trigger = TrojanNN(size=2, neurons=1, goal=2.0, steps=200, step_size=0.01)
    made = trigger.fit(model, images, target=0, seed=0)
    assert made.learnt.tensors["patch"].sum() == pytest.approx(2.0, abs=0.04)


def test_more_steps_come_nearer_on_a_network(images):
    model = create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0).eval()
    eight = ImageSet(torch.zeros(2, 1, 8, 8), torch.arange(2), np.arange(2), ("a", "b"), "toy")
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    chosen = last.weight.abs().sum(dim=0).topk(2).indices
    seen = []
    handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, chosen]))
    far = []
    for steps in (1, 5, 50):
        made = TrojanNN(size=6, steps=steps).fit(model, eight, target=0, seed=0)
        with torch.no_grad():
            model(made.learnt.tensors["patch"][None])
        far.append((100 - seen[-1]).square().sum().item())
    handle.remove()
    assert far == sorted(far, reverse=True)
    assert far[-1] < far[0]


def test_is_added_without_wrapping_around(images):
    model = network(torch.ones(1, 16), [[1.0], [-1.0]])
    made = TrojanNN(size=2, neurons=1, steps=20).fit(model, images, target=0, seed=0)
    bright = torch.full((1, 1, 4, 4), 0.9)
    assert (made.stamp(bright)[..., 2:, 2:] == 1).all()
    assert torch.equal(made.stamp(bright)[..., :2, :], bright[..., :2, :])


def test_refuses_networks_without_a_way_from_the_patch_to_the_neurons(images):
    with pytest.raises(ValueError, match=r"Flatten: expected one with a linear layer"):
        TrojanNN(size=2).fit(nn.Flatten(), images, target=0, seed=0)
    dead = network(torch.zeros(2, 16), [[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"neurons that do not answer to a patch of size=2"):
        TrojanNN(size=2, steps=2).fit(dead, images, target=0, seed=0)
