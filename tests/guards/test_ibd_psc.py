import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from bezoar.classifier import predict, weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.detection import scores
from bezoar.guards import IBDPSC
from bezoar.guards.ibd_psc import last_norms
from bezoar.models import IBDPSC as Network
from bezoar.models import Sureness, create
from bezoar.seeds import generator

NORMS = ["3", "2", "1"]


def normed(scale=1.0, shift=0.0):
    """The pixel says which of two classes, through three batch norms that know no statistics."""
    norms = [nn.BatchNorm1d(2, eps=0) for _ in range(3)]
    for norm in norms:
        nn.init.constant_(norm.weight, scale)
        nn.init.constant_(norm.bias, shift)
    return nn.Sequential(Rows(), *norms).eval()


class Rows(nn.Module):
    """Images ``(N, 1, 1, 2)`` to their two pixels, the second less 0.2."""

    def forward(self, x):
        return x[:, 0, 0] - torch.tensor([0.0, 0.2])


class Fickle(nn.Module):
    """Says 0, or 1 where its batch norm gives more than 2, or 1 at once for a white pixel."""

    def __init__(self):
        super().__init__()
        self.norms = nn.Sequential(*(nn.BatchNorm1d(1, eps=0) for _ in range(3)))

    def forward(self, x):
        lit = x[:, 0, 0, :1]
        grown = self.norms(1 - (lit == 1).float())
        return torch.cat([torch.zeros_like(lit), 9 * (grown - 2) * (lit < 1) + 9 * (lit == 1)], 1)


def pictures(count, stream="test"):
    return torch.rand(count, 1, 1, 2, generator=generator(0, "tests", "ibd-psc", stream)) * 0.9


def evidence(x, labels):
    images = ImageSet(x, labels, torch.arange(len(x)).numpy(), ("a", "b"), "made")
    return Evidence(images, images)


def whole(network, **fields):
    return Network(network=network, sureness=Sureness(), **{"norms": NORMS, **fields})


def test_times_one_the_score_is_the_probability_of_the_class():
    x, network = pictures(20), normed(1.3, 0.2)
    wanted = predict(network, x).softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(scores(whole(network, factor=1.0), x), -(1 - wanted).log())


def test_each_batch_norm_more_multiplies_the_logits_once_more():
    # Without shifts and statistics the logits of k scaled norms are factor^k times those of none.
    x, network = pictures(20), normed()
    logits = predict(network, x)
    said = logits.argmax(dim=1, keepdim=True)
    each = [(2.0**k * logits).softmax(dim=1).gather(1, said)[:, 0] for k in (2, 3)]
    found = scores(whole(network, start=2, factor=2.0), x)
    torch.testing.assert_close(found, -(1 - torch.stack(each).mean(dim=0)).log())
    assert whole(network, start=2).passes == 3


def test_the_shift_is_scaled_as_well_as_the_scale():
    x, network = pictures(4), normed(1.5, 0.25)
    larger = normed(1.5, 0.25)
    nn.init.constant_(larger[3].weight, 3.0)
    nn.init.constant_(larger[3].bias, 0.5)
    torch.testing.assert_close(whole(network, factor=2.0).scaled(x, 1), larger(x))


def test_asking_leaves_the_network_as_it_is():
    network = normed(1.3, 0.2)
    before = deepcopy(network)
    scores(whole(network), pictures(4))
    assert weights_hash(network) == weights_hash(before)


def test_begins_where_clean_images_are_lost_and_finds_what_is_not():
    # 1 grows to 1.5, 2.25 and 3.375: clean images leave class 0 with the second norm.
    x = pictures(40, "clean")
    made = IBDPSC(count=2)(Fickle(), evidence(x, torch.tensor([0] * 39 + [1])), seed=0)
    assert made.classifier.fields["start"] == 2
    assert made.classifier.fields["norms"] == ["norms.2", "norms.1", "norms.0"]
    stamped = pictures(10)
    stamped[:, 0, 0, 0] = 1
    clean, triggered = (scores(made.classifier, images) for images in (pictures(10), stamped))
    assert clean.max() < -math.log(1 - 0.1)
    assert triggered.min() > -math.log(1 - 0.9)
    assert (triggered > made.classifier.threshold).all()
    assert made.cost.forward == (2 + 3 + 1) * 40


def test_near_the_first_batch_norm_there_are_fewer_networks():
    labels = torch.tensor([0] * 39 + [1])
    made = IBDPSC(count=5)(Fickle(), evidence(pictures(40), labels), seed=0)
    assert made.classifier.passes == 3


def test_clean_images_that_are_never_lost_are_refused_with_a_way_out():
    data = evidence(pictures(10), torch.tensor([0, 1] * 5))
    with pytest.raises(
        ValueError, match=r"error=0.6: 50% of made are wrong with all 3 batch norms"
    ):
        IBDPSC(factor=1.0)(Fickle(), data, seed=0)


def test_a_network_without_batch_norm_is_refused():
    data = evidence(pictures(10), torch.tensor([0, 1] * 5))
    plain = nn.Sequential(Rows(), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Sequential without batch norm: expected one at least"):
        IBDPSC()(plain, data, seed=0)


def test_the_last_batch_norm_is_the_one_that_is_passed_last():
    class Turned(nn.Module):
        """Batch norms that are passed against the order in which they were made, one twice."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.BatchNorm2d(1) for _ in range(3))

        def forward(self, x):
            return self.a(self.b(self.c(self.b(x)))).flatten(1)

    assert last_norms(Turned(), pictures(2)) == ["a", "b", "c"]
    resnet = create("preact-resnet", shape=(1, 8, 8), classes=10, seed=0, width=2)
    found = last_norms(resnet, torch.zeros(2, 1, 8, 8))
    assert found[:3] == ["norm", "stages.7.norm2", "stages.7.norm1"]
    assert len(found) == 17


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"factor": 0.0}, "factor=0.0: expected a number above 0"),
        ({"factor": -1.0}, "factor=-1.0: expected a number at least 0"),
        ({"error": 1.5}, "error=1.5: expected a number in"),
        ({"count": 0}, "count=0: expected an integer >= 1"),
        ({"fpr": 1.5}, "fpr=1.5: expected a number in"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        IBDPSC(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"norms": ["3", "0"]}, "norms: '0' of Sequential: expected a batch norm with scale"),
        ({"norms": ["3", "4"]}, "norms: '4' of Sequential: expected a batch norm with scale"),
        ({"norms": ["3", "3"]}, "norms: '3' of Sequential: expected a batch norm with scale"),
        ({"start": 0}, "start=0: expected an integer from 1 to 3"),
        ({"start": 4}, "start=4: expected an integer from 1 to 3"),
        ({"factor": 0.0}, "factor=0.0: expected a number above 0"),
    ],
)
def test_what_a_file_says_of_the_batch_norms_is_checked(fields, said):
    with pytest.raises(ValueError, match=said):
        whole(normed(), **fields)
