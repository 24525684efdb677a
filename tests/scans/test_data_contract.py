"""What every scan of training data keeps to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.backdoors import sifted
from bezoar.classifier import weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.models import create
from bezoar.scans import (
    DATA_SCANS,
    ActivationClustering,
    DataScan,
    SCAn,
    SpectralSignatures,
    Spectre,
)
from bezoar.seeds import generator

# Those that say whether there is poison, and those that remove as much whether there is or not.
DECIDING: list[DataScan] = [ActivationClustering(), SCAn()]
REMOVING: list[DataScan] = [SpectralSignatures(), Spectre()]
CASES = DECIDING + REMOVING

CLASSES, EACH = 10, 80
NAMES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def suspects(digits):
    return digits.train.first(700)


@pytest.fixture(scope="module")
def known(digits):
    """Trusted images of all ten digits."""
    return digits.validation.first(100)


@pytest.fixture(scope="module")
def readout():
    """A network whose features are the 20 values of the image itself."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 20), nn.Linear(20, CLASSES))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(20))
        model[1].bias.zero_()
    return model


def normal(seed, name, shift=0.0):
    """80 images ``(1, 4, 5)`` of each of ten normal classes; a tenth of class 3 is shifted."""
    rng = generator(0, "tests", "classes")
    means = 0.5 + 0.1 * torch.rand(CLASSES, 20, generator=rng)
    labels = torch.arange(CLASSES * EACH) % CLASSES
    drawn = torch.randn(len(labels), 20, generator=generator(seed, "tests", name))
    x = means[labels] + 0.02 * drawn
    x[poison(), :4] += shift
    pixels = x.clamp(0, 1).reshape(-1, 1, 4, 5)
    return ImageSet(pixels, labels, np.arange(len(labels)), NAMES, f"{name}/train")


def poison():
    return np.arange(3, CLASSES * EACH, CLASSES)[:8]


def test_every_scan_in_the_table_has_a_case():
    assert {type(case) for case in CASES} == set(DATA_SCANS.values())
    assert [kind() for kind in DATA_SCANS.values()]


@pytest.mark.parametrize("scan", CASES, ids=repr)
class TestContract:
    def test_leaves_classifier_images_and_global_rng_alone(self, scan, network, suspects, known):
        network[0].requires_grad_(False)
        network.train()
        network[1].eval()
        before, state = weights_hash(network), torch.get_rng_state()
        pixels = [images.pixels.clone() for images in (suspects, known)]
        scan(network, suspects, known, seed=0)
        assert weights_hash(network) == before
        assert [module.training for module in network] == [True, False, True, True, True, True]
        assert [p.requires_grad for p in network.parameters()] == [False] * 2 + [True] * 4
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert torch.equal(suspects.pixels, pixels[0])
        assert torch.equal(known.pixels, pixels[1])
        assert torch.equal(torch.get_rng_state(), state)

    def test_says_the_same_again_with_the_same_seed(self, scan, network, suspects, known):
        first, second = (scan(network, suspects, known, seed=7) for _ in range(2))
        assert (first.score, first.suspect) == (second.score, second.suspect)
        assert torch.equal(first.classes, second.classes)
        assert torch.equal(first.rows, second.rows)
        assert torch.equal(first.flagged, second.flagged)

    def test_every_pass_through_the_network_is_counted(self, scan, counted, suspects, known):
        network, passes = counted
        found = scan(network, suspects, known, seed=0)
        assert found.cost.forward == sum(passes.forward) >= len(suspects)
        assert found.cost.backward == sum(passes.backward) == 0
        assert found.cost.seconds > 0

    def test_says_something_of_each_image_and_class_and_how_far_it_is(
        self, scan, network, suspects, known
    ):
        told = []
        found = scan(network, suspects, known, seed=0, on_step=told.append)
        assert found.rows.shape == found.flagged.shape == (len(suspects),)
        assert found.flagged.dtype == torch.bool
        assert found.classes.shape == (10,)
        assert found.rows.isfinite().all()
        assert found.classes.isfinite().all()
        assert found.score == pytest.approx(found.classes.max().item())
        assert [one.done for one in told] == list(range(1, told[0].rows + 1))

    def test_finds_a_planted_cluster_and_the_class_that_it_is_in(self, scan, readout):
        images, clean = normal(0, "planted", shift=0.2), normal(0, "trusted")
        found = scan(readout, images, clean, seed=0)
        made = sifted(found, poison())
        assert found.accused
        assert found.suspect == found.classes.argmax() == 3
        assert made.caught.value >= 0.9
        assert torch.isin(torch.from_numpy(poison()), found.rows.argsort()[-60:]).all()

    def test_hardly_ever_accuses_healthy_data(self, scan, readout):
        clean = normal(0, "trusted")
        found = [scan(readout, normal(k, "healthy"), clean, seed=k) for k in range(20)]
        assert sum(one.accused for one in found) <= 1
        assert [one.suspect is None for one in found] == [not one.accused for one in found]

    def test_leaves_out_a_class_without_images_and_one_of_a_single_image(self, scan, readout):
        whole = normal(0, "planted", shift=0.2)
        kept = (whole.labels != 7) & (whole.labels != 8) | (torch.arange(len(whole)) == 7)
        images = whole.take(np.flatnonzero(kept.numpy()))
        found = scan(readout, images, normal(0, "trusted"), seed=0)
        alone = images.labels == 7
        assert alone.sum() == 1
        assert found.suspect == 3
        assert found.classes[7:9].tolist() == [0, 0]
        assert found.rows[alone] == 0
        assert not found.flagged[alone]

    def test_a_class_whose_images_are_all_the_same_is_not_suspicious(self, scan, readout):
        whole = normal(0, "planted", shift=0.2)
        pixels = whole.pixels.clone()
        pixels[whole.labels == 5] = 0.5
        found = scan(readout, replace(whole, pixels=pixels), normal(0, "trusted"), seed=0)
        assert found.suspect == 3
        assert found.rows[whole.labels == 5].unique().numel() == 1

    def test_refuses_fewer_classes_than_can_be_compared(self, scan, readout):
        whole = normal(0, "planted")
        images = whole.take(np.flatnonzero(whole.labels.numpy() < 2))
        with pytest.raises(ValueError, match=r"2 classes of at least .*: expected 3 or more"):
            scan(readout, images, whole, seed=0)

    def test_refuses_images_that_the_network_does_not_take(self, scan, readout):
        whole = normal(0, "planted")
        images = replace(whole, pixels=torch.rand(len(whole), 1, 3, 3))
        with pytest.raises(ValueError, match="expected images that the classifier takes"):
            scan(readout, images, images, seed=0)

    def test_refuses_a_network_of_other_classes(self, scan, suspects, known):
        network = create("lenet-fig4", shape=suspects.shape, classes=4, seed=0)
        with pytest.raises(ValueError, match="expected 10 logits an image"):
            scan(network, suspects, known, seed=0)

    def test_refuses_a_network_that_it_cannot_look_into(self, scan, network, suspects, known):
        with pytest.raises(ValueError, match="something after the last linear layer"):
            scan(nn.Sequential(network, nn.Softmax(dim=1)), suspects, known, seed=0)

    def test_refuses_features_that_are_no_numbers(self, scan, readout):
        class Broken(nn.Module):
            def forward(self, x):
                return x.masked_fill((torch.arange(len(x)) == 5)[:, None], float("inf"))

        network = nn.Sequential(*readout[:2], Broken(), readout[2])
        whole = normal(0, "planted")
        with pytest.raises(ValueError, match=r"features of .* images .*: expected finite numbers"):
            scan(network, whole, whole, seed=0)

    def test_refuses_a_network_that_draws_noise(self, scan, readout):
        class Noisy(nn.Module):
            def reseed(self, keys):
                self.keys = keys

            def forward(self, x):
                return x

        whole = normal(0, "planted")
        with pytest.raises(ValueError, match="expected one whose features stay the same"):
            scan(nn.Sequential(Noisy(), readout), whole, whole, seed=0)


@pytest.mark.parametrize("scan", DECIDING, ids=repr)
def test_flags_little_but_the_poison(scan, readout):
    found = scan(readout, normal(1, "planted", shift=0.2), normal(0, "trusted"), seed=0)
    assert sifted(found, poison()).alarms.value <= 0.05


@pytest.mark.parametrize("scan", DECIDING, ids=repr)
def test_flags_nothing_where_it_accuses_nobody(scan, readout):
    found = scan(readout, normal(1, "healthy"), normal(0, "trusted"), seed=0)
    assert not found.accused
    assert not found.flagged.any()


@pytest.mark.parametrize("scan", REMOVING, ids=repr)
@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_removes_as_much_of_each_class_whether_it_accuses_or_not(scan, readout, shift):
    images = normal(1, "planted", shift=shift)
    found = scan(readout, images, normal(0, "trusted"), seed=0)
    assert found.accused == bool(shift)
    assert images.labels[found.flagged].bincount().tolist() == [12] * CLASSES


@pytest.mark.parametrize("scan", REMOVING, ids=repr)
def test_what_it_removes_grows_with_the_rate(scan, readout):
    images = normal(1, "planted")
    less = replace(scan, rate=0.02)(readout, images, images, seed=0).flagged
    more = scan(readout, images, images, seed=0).flagged
    assert images.labels[less].bincount().tolist() == [2] * CLASSES
    assert more[less].all()
