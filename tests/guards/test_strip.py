import math

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.classifier import predict
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.detection import scores
from bezoar.guards import STRIP
from bezoar.models import STRIP as Network
from bezoar.models import Certainty
from bezoar.seeds import generator


class Backdoored(nn.Module):
    """Reads one of three classes from the first row, and 0 where the last pixel is white."""

    def forward(self, x):
        target = nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 3)
        white = (x[:, 0, -1, -1:] == 1).float()
        return 4 * x[:, 0, 0, :3] + 50 * white * target


def pictures(count, stream):
    """Images ``(count, 1, 4, 4)`` whose last pixel is dark, with classes in turn."""
    x = torch.rand(count, 1, 4, 4, generator=generator(0, "tests", stream)) * 0.6
    x[:, :, -1, -1] = 0
    labels = torch.arange(count) % 3
    return ImageSet(x, labels, np.arange(count), ("a", "b", "c"), stream)


@pytest.fixture(scope="module")
def evidence():
    return Evidence(pictures(30, "train"), pictures(60, "validation"))


@pytest.fixture(scope="module")
def made(evidence):
    return STRIP(overlays=20, fpr=0.1)(Backdoored(), evidence, seed=0)


def test_a_trigger_that_outlives_the_overlays_is_more_certain_than_any_clean_image(made):
    x, _ = pictures(200, "test").batch(slice(None))
    stamped = x.clone()
    stamped[:, :, -1, -1] = 1
    clean, triggered = scores(made.classifier, x), scores(made.classifier, stamped)
    assert triggered.min() > clean.max()
    assert triggered.min() > made.classifier.threshold
    torch.testing.assert_close(triggered, torch.full((200,), math.log(3)))


def test_the_score_is_the_certainty_under_each_overlay(made):
    x, _ = pictures(5, "test").batch(slice(None))
    each = []
    for overlay in made.classifier.overlays:
        said = predict(Backdoored(), (x + 0.5 * overlay).clamp(max=1)).softmax(dim=1)
        each.append(math.log(3) + (said * said.log()).sum(dim=1))
    torch.testing.assert_close(scores(made.classifier, x), torch.stack(each).mean(dim=0))


def test_the_weights_of_the_mixture_are_those_that_were_asked_for(evidence):
    whole = STRIP(overlays=1, own=0.25, other=0.75)(Backdoored(), evidence, seed=0).classifier
    x, _ = pictures(5, "test").batch(slice(None))
    mixed = predict(Backdoored(), 0.25 * x + 0.75 * whole.overlays).log_softmax(dim=1)
    wanted = math.log(3) + (mixed.exp() * mixed).sum(dim=1)
    torch.testing.assert_close(scores(whole, x), wanted)


def test_an_image_has_the_same_score_whatever_its_neighbours(made):
    x, _ = pictures(9, "test").batch(slice(None))
    torch.testing.assert_close(scores(made.classifier, x[4:5]), scores(made.classifier, x)[4:5])


def test_the_overlays_are_validation_images_of_which_none_sets_the_threshold(made, evidence):
    overlays, (held, _) = made.classifier.overlays, evidence.validation.batch(slice(None))
    chosen = (held[:, None] == overlays[None]).flatten(2).all(dim=2).any(dim=1)
    assert chosen.sum() == len(overlays) == 20
    rejected = scores(made.classifier, held[~chosen]) > made.classifier.threshold
    assert rejected.sum() == 4  # 0.1 of the 40 others
    assert made.cost.forward == 20 * 40 + 60


def test_another_seed_chooses_other_overlays(evidence):
    first, again, other = (
        STRIP(overlays=5)(Backdoored(), evidence, seed=seed).classifier.overlays
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_of_a_network_that_always_says_the_same_nothing_is_rejected(evidence):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    constant[1].weight.data.zero_()
    whole = STRIP(overlays=5, fpr=0.5)(constant, evidence, seed=0).classifier
    x, _ = pictures(50, "test").batch(slice(None))
    assert not (scores(whole, x) > whole.threshold).any()


def test_refuses_to_use_up_the_images_that_set_the_threshold(evidence):
    with pytest.raises(ValueError, match="overlays=60 of the 60 images of validation: expected"):
        STRIP(overlays=60)(Backdoored(), evidence, seed=0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"overlays": 0}, "overlays=0: expected an integer >= 1"),
        ({"own": -1.0}, "own=-1.0: expected a number at least 0"),
        ({"other": math.inf}, "other=inf: expected a number at least 0"),
        ({"fpr": 1.5}, "fpr=1.5: expected a number in"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        STRIP(**fields)


def test_a_network_that_a_file_promises_has_a_size():
    with pytest.raises(ValueError, match="count=0: expected an integer from 1"):
        Network(network=nn.Identity(), certainty=Certainty(), shape=(1, 4, 4), count=0)
