import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA
from torch import nn

from bezoar.data.imageset import ImageSet
from bezoar.scans import ActivationClustering
from bezoar.scans.activation_clustering import silhouette
from bezoar.scans.suspects import components, halved, leaning
from bezoar.seeds import generator


@pytest.fixture
def readout():
    """A network whose features are the six values of the image itself."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3))
    nn.init.eye_(model[1].weight)
    return model


def three(apart):
    """200 images of each of three classes; so many of class 1 lie apart."""
    labels = torch.arange(3).repeat_interleave(200)
    x = 0.3 + 0.02 * torch.randn(600, 6, generator=generator(0, "tests", "three"))
    x[200 : 200 + apart, 0] += 0.4
    pixels = x.clamp(0, 1).reshape(-1, 1, 2, 3)
    return ImageSet(pixels, labels, np.arange(600), ("a", "b", "c"), "three/train")


def test_the_silhouette_by_hand():
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    group = torch.tensor([True, True, False, False])
    assert silhouette(points, group) == pytest.approx((9.5 / 10.5 + 8.5 / 9.5) / 2)


def test_independent_components_would_split_alike():
    rng = generator(0, "tests", "sources")
    sources = torch.rand(400, 5, generator=rng, dtype=torch.float64)
    sources[:40, 0] += 6
    h = sources @ torch.randn(5, 5, generator=rng, dtype=torch.float64)
    scores, deviations = components(h, 5)
    ours = halved(scores / deviations, 0)
    ica = FastICA(5, whiten="unit-variance", random_state=0).fit_transform(h.numpy())
    theirs = halved(torch.from_numpy(ica), 0)
    assert torch.equal(ours == ours[0], theirs == theirs[0])
    found, other = (silhouette(p, ours) for p in (scores / deviations, torch.from_numpy(ica)))
    assert found == pytest.approx(other)


def test_components_leave_out_what_does_not_vary():
    h = torch.zeros(50, 4, dtype=torch.float64)
    h[:, 1] = torch.arange(50)
    h[:, 3] = h[:, 1] * 2 + 7
    scores, deviations = components(h, 10)
    assert scores.shape == (50, 1)
    assert deviations.item() == pytest.approx(5**0.5 * torch.arange(50.0).std().item())


def test_leaning_is_the_difference_of_the_squared_distances():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]])
    group = torch.tensor([False, False, True])
    torch.testing.assert_close(leaning(points, group), torch.tensor([-99.0, -63.0, 81.0]))


def test_the_smaller_cluster_of_the_accused_class_is_flagged(readout):
    images = three(apart=30)
    found = ActivationClustering()(readout, images, images, seed=0)
    assert found.suspect == 1
    assert found.flagged.nonzero().squeeze(1).tolist() == list(range(200, 230))
    assert found.classes[0] == found.classes[2] == 0
    assert (found.rows[200:230] > 0).all()


def test_halves_of_the_same_size_are_not_suspicious(readout):
    images = three(apart=90)
    assert not ActivationClustering()(readout, images, images, seed=0).accused
    even = ActivationClustering(share=0.5, silhouette=0.1, threshold=3.0)
    assert even(readout, images, images, seed=0).suspect == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"components": 0}, "components=0: expected an integer >= 1"),
        ({"share": 0.6}, r"share=0.6: expected a number in \[0, 0.5\]"),
        ({"silhouette": 2.0}, r"silhouette=2.0: expected a number in \[-1, 1\]"),
        ({"threshold": -1.0}, "threshold=-1.0: expected a number at least 0"),
        ({"least": 2}, "least=2: expected an integer >= 3"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        ActivationClustering(**fields)
