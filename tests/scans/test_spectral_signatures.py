import numpy as np
import pytest
import torch
from torch import nn

from bezoar.data.imageset import ImageSet
from bezoar.scans import SpectralSignatures
from bezoar.scans.spectral_signatures import highest, signature
from bezoar.seeds import generator


def test_the_signature_by_hand():
    # Most variance lies along (3, 4) / 5: projections 5, -5, 0 and 0, of a mean of 0.
    h = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.8, -0.6], [-0.8, 0.6]], dtype=torch.float64)
    rows, share = signature(h + 7)
    torch.testing.assert_close(rows, torch.tensor([25.0, 25.0, 0.0, 0.0], dtype=torch.float64))
    assert share == pytest.approx(50 / 52)


def test_scores_are_squared_projections_on_the_top_right_singular_vector():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3))
    nn.init.eye_(model[1].weight)
    x = torch.rand(60, 1, 2, 3, generator=generator(0, "tests", "rows"))
    labels = torch.arange(60) % 3
    images = ImageSet(x, labels, np.arange(60), ("a", "b", "c"), "rows/train")
    found = SpectralSignatures()(model, images, images, seed=0)
    h = x[labels == 1].flatten(1).numpy()
    centred = h - h.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    np.testing.assert_allclose(found.rows[labels == 1], (centred @ axes[:, -1]) ** 2, rtol=1e-4)


def test_more_poison_than_the_rate_is_missed_and_no_more_than_its_margin_removed():
    rows = torch.arange(100.0)
    assert highest(rows, 1.5 * 0.1).nonzero().squeeze(1).tolist() == list(range(85, 100))
    assert not highest(rows, 0.0).any()
    assert highest(rows, 1.0).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rate": 0.7}, r"rate=0.7: expected a number in \[0, 0.666667\]"),
        ({"threshold": -1.0}, "threshold=-1.0: expected a number at least 0"),
        ({"least": 1}, "least=1: expected an integer >= 2"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        SpectralSignatures(**fields)
