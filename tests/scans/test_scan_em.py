from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.data.imageset import ImageSet
from bezoar.scans import SCAn
from bezoar.scans.statistical_contamination import decompose, scaled, upper
from bezoar.seeds import generator


def drawn(between, within, counts):
    """Features of classes of so many images each, by the model of the paper."""
    rng = generator(0, "tests", "drawn")
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    size = len(between)
    means = torch.randn(len(counts), size, generator=rng, dtype=torch.float64)
    noise = torch.randn(len(labels), size, generator=rng, dtype=torch.float64)
    mu = means @ torch.linalg.cholesky(between).T
    return mu[labels] + noise @ torch.linalg.cholesky(within).T, labels


@pytest.mark.parametrize("counts", [[20] * 2000, [5, 40] * 1000], ids=["balanced", "unequal"])
def test_recovers_the_covariances_that_features_were_drawn_with(counts):
    between = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    within = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=torch.float64)
    found = decompose(*drawn(between, within, counts))
    torch.testing.assert_close(found[0], between, rtol=0.07, atol=0.1)
    torch.testing.assert_close(found[1], within, rtol=0.03, atol=0.03)


def test_of_classes_of_one_size_it_is_the_closed_form_of_maximum_likelihood():
    one = torch.ones(1, 1, dtype=torch.float64)
    h, labels = drawn(one, 4 * one, [5] * 200)
    groups = h.reshape(200, 5)
    within = groups.var(dim=1).mean()
    between = groups.mean(dim=1).square().mean() - within / 5
    found = decompose(h, labels)
    torch.testing.assert_close(
        torch.cat(found).flatten(), torch.stack([between, within]), rtol=1e-3, atol=0
    )


def test_scaled_features_vary_alike_within_classes():
    within = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=torch.float64)
    h = torch.randn(50, 2, generator=generator(0, "tests", "scaled"), dtype=torch.float64)
    by_hand = (h @ torch.linalg.inv(within) * h).sum(dim=1)
    torch.testing.assert_close(scaled(h, within).square().sum(dim=1), by_hand)


@pytest.fixture
def readout():
    """A network whose features are the six values of the image itself."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False), nn.Linear(6, 4))
    nn.init.eye_(model[1].weight)
    return model


def four(name, apart=0, dead=False):
    """50 images of each of four classes; the first ``apart`` of class 1 differ in one value."""
    labels = torch.arange(4).repeat_interleave(50)
    x = 0.3 + 0.02 * torch.randn(200, 6, generator=generator(0, "tests", name))
    x[:, 5] = torch.where(torch.tensor(dead), torch.tensor(0.3), x[:, 5])
    x[50 : 50 + apart, 5] += 0.3
    pixels = x.clamp(0, 1).reshape(-1, 1, 2, 3)
    return ImageSet(pixels, labels, np.arange(200), tuple("abcd"), f"{name}/train")


@pytest.mark.parametrize("apart", [5, 35], ids=["the smaller", "the larger"])
def test_flags_the_group_that_is_farther_from_trusted_images(readout, apart):
    found = SCAn()(readout, four("suspects", apart), four("trusted"), seed=0)
    assert found.suspect == 1
    assert found.flagged.nonzero().squeeze(1).tolist() == list(range(50, 50 + apart))
    assert (found.rows[50 : 50 + apart] > 0).all()


def test_a_unit_that_only_poison_makes_vary_counts(readout):
    found = SCAn()(readout, four("suspects", 5, dead=True), four("trusted", dead=True), seed=0)
    assert found.flagged.nonzero().squeeze(1).tolist() == list(range(50, 55))


def test_the_border_lies_where_both_groups_are_as_likely_and_not_in_the_middle():
    rng = torch.Generator().manual_seed(0)
    narrow, wide = torch.randn(4000, generator=rng), 10 + 3 * torch.randn(4000, generator=rng)
    values = torch.cat([narrow, wide]).double()
    marked = upper(values, values > 5)
    # x^2 = (x - 10)^2 / 9 + 2 log 3 has its roots at 2.82 and -5.32; below the latter is no poison.
    border = values[marked].min()
    assert 2.5 < border < 3.1
    assert torch.equal(marked, values >= border)


def test_features_in_other_units_say_the_same(readout):
    before = SCAn()(readout, four("suspects", 5), four("trusted"), seed=0)
    with torch.no_grad():
        readout[1].weight.mul_(100)
    after = SCAn()(readout, four("suspects", 5), four("trusted"), seed=0)
    torch.testing.assert_close(before.classes, after.classes, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(before.rows, after.rows, rtol=1e-3, atol=1e-3)


def test_refuses_trusted_images_that_lack_a_class(readout):
    trusted = four("trusted").take(np.arange(150))
    with pytest.raises(ValueError, match="no image of class 'd' in trusted/train: expected one"):
        SCAn()(readout, four("suspects"), trusted, seed=0)


def test_refuses_trusted_images_of_other_classes_or_shape(readout):
    trusted = four("trusted")
    for other in (
        replace(trusted, classes=tuple("abce")),
        replace(trusted, pixels=torch.rand(200, 1, 3, 2)),
    ):
        with pytest.raises(ValueError, match="expected those of suspects/train"):
            SCAn()(readout, four("suspects"), other, seed=0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ridge": 0.0}, "ridge=0.0: expected a number at least 1e-09"),
        ({"threshold": -1.0}, "threshold=-1.0: expected a number at least 0"),
        ({"least": 1}, "least=1: expected an integer >= 2"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        SCAn(**fields)
