import pytest
import torch
from torch import nn

from bezoar.classifier import predict
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.detection import scores
from bezoar.guards import ScaleUp
from bezoar.guards.scale_up import moments
from bezoar.models import Constancy
from bezoar.models import ScaleUp as Network
from bezoar.seeds import generator


class Backdoored(nn.Module):
    """Says the brighter of the first two pixels, the first if equal; 2 if the last is white."""

    def forward(self, x):
        first, second, last = x[:, 0, 0, 0], x[:, 0, 0, 1], x[:, 0, -1, -1]
        return torch.stack([first + 0.01, second, 9 * (last == 1).float()], dim=1)


def pictures(pairs):
    """Images ``(N, 1, 2, 2)`` with these first two pixels, and nothing else."""
    x = torch.zeros(len(pairs), 1, 2, 2)
    x[:, 0, 0] = torch.tensor(pairs)
    return x


def evidence(x, labels):
    images = ImageSet(x, labels, torch.arange(len(x)).numpy(), ("a", "b", "c"), "made")
    return Evidence(images, images)


def plain(network, **fields):
    """The detector whose score is the share itself."""
    return Network(network=network, constancy=Constancy(), classes=3, **fields)


def test_a_network_that_is_linear_and_has_no_bias_never_changes_its_class_without_clipping():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    rng = generator(0, "tests", "scale-up")
    linear[1].weight.data = torch.randn(3, 4, generator=rng)
    x = torch.rand(50, 1, 2, 2, generator=rng)
    assert torch.equal(scores(plain(linear), x / 11), torch.ones(50))
    assert scores(plain(linear), x).min() < 1


def test_the_share_counts_the_multiples_that_keep_the_class():
    # 0.15 against 0.25: the second pixel is the brighter one until both are white, from 7 times on.
    x = pictures([(0.15, 0.25), (0.25, 0.15), (0.02, 0.05)])
    torch.testing.assert_close(scores(plain(Backdoored()), x), torch.tensor([0.4, 1.0, 1.0]))
    few = plain(Backdoored(), factors=(3, 7))
    torch.testing.assert_close(scores(few, x), torch.tensor([0.5, 1.0, 1.0]))
    assert (plain(Backdoored()).passes, few.passes) == (6, 3)


def test_a_white_trigger_stays_and_a_clean_image_of_the_same_class_does_not():
    x = pictures([(0.2, 0.9), (0.3, 0.8), (0.1, 0.6)])
    stamped = x.clone()
    stamped[:, :, -1, -1] = 1
    whole = plain(Backdoored())
    assert scores(whole, stamped).tolist() == [1, 1, 1]
    assert scores(whole, x).max() < 1


def test_the_score_is_measured_by_the_clean_images_that_are_of_the_same_class():
    # Class 0 always stays; class 1 stays 2, 2, 0 and 0 times of 5.
    x = pictures([(0.5, 0.2)] * 4 + [(0.15, 0.25)] * 2 + [(0.4, 0.9)] * 2)
    made = ScaleUp(fpr=0.5)(Backdoored(), evidence(x, torch.tensor([0] * 4 + [1] * 4)), seed=0)
    whole = made.classifier
    torch.testing.assert_close(whole.mean[:2], torch.tensor([1.0, 0.2]))
    torch.testing.assert_close(whole.std[:2], torch.tensor([0.1, 0.2]))  # half a step, at least
    share = torch.tensor([1.0] * 4 + [0.4] * 2 + [0.0] * 2)
    torch.testing.assert_close(whole.mean[2], share.mean())  # no image is said to be of class 2
    torch.testing.assert_close(whole.std[2], share.std(correction=0))
    wanted = torch.tensor([0.0] * 4 + [1.0] * 2 + [-1.0] * 2)
    torch.testing.assert_close(scores(whole, x), wanted, atol=1e-5, rtol=0)
    assert made.cost.forward == (6 + 1 + 6 + 1) * 8


def test_without_classes_the_score_is_the_share():
    x = pictures([(0.5, 0.2)] * 3 + [(0.15, 0.25)] * 3)
    guard = ScaleUp(by_class=False, fpr=0.5, largest=7)
    made = guard(Backdoored(), evidence(x, torch.tensor([0, 0, 0, 1, 1, 1])), seed=0)
    wanted = torch.tensor([1.0] * 3 + [2 / 3] * 3)
    torch.testing.assert_close(scores(made.classifier, x), wanted)
    assert made.cost.forward == (4 + 1) * 6


def test_the_classes_stay_those_of_the_network():
    x = pictures([(0.5, 0.2), (0.1, 0.7)])
    assert torch.equal(predict(plain(Backdoored()), x), predict(Backdoored(), x))


def test_of_a_network_that_always_says_the_same_nothing_is_rejected():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    constant[1].weight.data.zero_()
    x = torch.rand(30, 1, 2, 2, generator=generator(0, "tests", "scale-up"))
    made = ScaleUp(fpr=0.5)(constant, evidence(x, torch.arange(30) % 3), seed=0).classifier
    assert not (scores(made, x) > made.threshold).any()


def test_a_class_of_one_image_has_the_moments_of_all():
    values, said = torch.tensor([0.0, 0.4, 0.8]), torch.tensor([0, 0, 1])
    mean, std = moments(values, said, 2, least=0.01)
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.4]))
    torch.testing.assert_close(std, torch.tensor([0.2, (0.32 / 3) ** 0.5]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"largest": 1}, "largest=1: expected an integer >= 3"),
        ({"largest": 8}, "largest=8: expected an odd number"),
        ({"fpr": -0.1}, "fpr=-0.1: expected a number in"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        ScaleUp(**fields)


@pytest.mark.parametrize("factors", [(), (3, 0), (3.5,)])
def test_refuses_factors_that_are_none(factors):
    with pytest.raises(ValueError, match=r"factors=.*: expected"):
        plain(nn.Identity(), factors=factors)
