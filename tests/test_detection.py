import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import APGD, PGD, DeepFool
from bezoar.classifier import predict
from bezoar.defence import Evidence
from bezoar.detection import (
    Judged,
    Watched,
    evading,
    interval,
    judged,
    roc,
    scores,
    threshold_of,
    unaware,
)
from bezoar.guards import Squeezing
from bezoar.models import create
from bezoar.seeds import generator
from bezoar.training import Training


def drawn(count, shift=0.0, seed=0):
    return torch.randn(count, generator=generator(seed, "tests", "detection")) + shift


class TestRoc:
    def test_scores_that_part_the_images_have_an_area_of_one_and_still_an_interval(self):
        curve = roc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5]))
        assert (curve.auc, curve.high) == (1, 1)
        assert 0.1 < curve.low < 0.9
        assert (curve.clean, curve.attacked) == (3, 2)

    def test_the_same_score_for_all_is_chance(self):
        assert roc(torch.ones(4), torch.ones(6)).auc == 0.5

    def test_the_area_is_the_share_of_pairs_in_order_and_half_of_the_ties(self):
        clean, attacked = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 5.0, 0.0])
        # 2 is above 1 and ties with 2, 3 is above two and ties with 3, 5 is above all, 0 none.
        assert roc(clean, attacked).auc == pytest.approx((1.5 + 2.5 + 3 + 0) / 12)

    def test_the_curve_is_the_share_of_each_kind_above_each_threshold(self):
        clean, attacked = drawn(50), drawn(40, 1, seed=1)
        curve = roc(clean, attacked)
        for cut in clean:
            fpr = (clean > cut).double().mean().item()
            tpr = (attacked > cut).double().mean().item()
            assert np.interp(fpr, curve.fpr, curve.tpr) == pytest.approx(tpr, abs=1 / 40 + 1e-9)

    def test_of_shifted_bells_it_is_the_bell_of_the_shift(self):
        # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2).
        curve = roc(drawn(2000), drawn(2000, 1, seed=1))
        assert curve.low < 0.5 * (1 + math.erf(0.5)) < curve.high

    def test_the_interval_holds_the_area_of_95_of_100_draws(self):
        truth = 0.5 * (1 + math.erf(0.5))
        inside = 0
        for seed in range(200):
            curve = roc(drawn(30, seed=2 * seed), drawn(20, 1, seed=2 * seed + 1))
            inside += curve.low <= truth <= curve.high
        assert 180 <= inside <= 199

    @pytest.mark.parametrize(("m", "n"), [(1, 1), (20, 30), (500, 7)])
    def test_the_interval_is_that_of_the_other_side_turned_around(self, m, n):
        for auc in (0.0, 0.2, 0.5, 0.9, 1.0):
            low, high = interval(auc, m, n)
            assert 0 <= low <= auc <= high <= 1
            assert low < high
            assert interval(1 - auc, n, m) == pytest.approx((1 - high, 1 - low))

    def test_more_images_make_it_narrower(self):
        widths = [np.diff(interval(0.8, count, count))[0] for count in (5, 20, 100, 1000)]
        assert widths == sorted(widths, reverse=True)

    @pytest.mark.parametrize("bad", [torch.zeros(0), torch.tensor([1.0, float("nan")])])
    def test_refuses_what_has_no_order(self, bad):
        with pytest.raises(ValueError, match=r"attacked: [02] scores: expected one at least"):
            roc(torch.ones(3), bad)


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_a_threshold_is_the_lowest_that_keeps_its_word(fpr):
    clean = drawn(40)
    threshold = threshold_of(clean, fpr)
    assert (clean > threshold).double().mean() <= fpr
    below = clean[clean < threshold]
    assert not len(below) or (clean > below.max()).double().mean() > fpr


class Planted(nn.Module):
    """A linear network to which a value that lies off the levels 0, 1/2, 1 is suspicious."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        weight = torch.randn(10, 64, generator=generator(0, "tests", "planted"))
        self.network[1].weight.data = weight
        self.network[1].bias.data.zero_()
        self.register_buffer("threshold", torch.tensor(0.2))

    def forward(self, x):
        return self.network(x)

    def score(self, x):
        return (x - x.mul(2).round().div(2).detach()).flatten(1).abs().amax(dim=1)


@pytest.fixture(scope="module")
def model():
    return Planted()


class TestWatched:
    def test_the_last_logit_is_the_largest_just_where_the_image_is_rejected(self, model):
        x = torch.rand(300, 1, 8, 8, generator=generator(0, "tests", "watched"))
        # Some near the levels that are not suspicious, some away from them.
        x = (x * 2).round() / 2 + torch.linspace(0, 0.24, 300).reshape(-1, 1, 1, 1)
        logits = predict(Watched(model), x)
        rejected = scores(model, x) > model.threshold
        assert logits.shape == (300, 11)
        assert 0 < rejected.sum() < 300
        assert torch.equal(logits.argmax(dim=1) == 10, rejected)
        assert torch.equal(logits[:, :10], predict(model, x))

    def test_without_any_score_it_is_the_lowest_and_at_the_threshold_as_high_as_the_highest(self):
        model = Planted()
        for score, place in ((0.0, "amin"), (0.2, "amax")):
            model.score = lambda x, score=score: torch.full((len(x),), score)
            logits = Watched(model)(torch.rand(4, 1, 8, 8))
            torch.testing.assert_close(logits[:, 10], getattr(logits[:, :10], place)(dim=1))

    @pytest.mark.parametrize("threshold", [0.0, 1e-30, 0.5])
    def test_is_finite_for_any_threshold_and_rises_with_the_score(self, threshold):
        model = Planted()
        model.threshold.fill_(threshold)
        last = []
        x = torch.rand(1, 1, 8, 8)
        for score in (0.0, 0.1, 0.5, 0.6, 2.0, 1e6):
            model.score = lambda x, score=score: torch.full((len(x),), score)
            last.append(Watched(model)(x)[0, 10].item())
        assert all(map(math.isfinite, last))
        assert last == sorted(last)

    def test_the_slope_leads_to_class_and_score(self, model):
        x = (torch.rand(1, 1, 8, 8) * 0.9 + 0.03).requires_grad_()
        logits = Watched(model)(x)
        (slope,) = torch.autograd.grad((logits[0, 10] - logits[0, :10].amax()), x)
        (score,) = torch.autograd.grad(model.score(x).sum(), x)
        assert torch.equal(slope != 0, score != 0)
        assert torch.equal(slope.sign(), score.sign())

    def test_refuses_a_classifier_without_a_score(self):
        with pytest.raises(TypeError, match="Sequential without score and threshold: expected a"):
            Watched(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


@pytest.fixture(scope="module")
def detector(digits):
    network = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=6)(network, digits.train, digits.validation, seed=0)
    evidence = Evidence(digits.train, digits.validation)
    return Squeezing(bits=3, fpr=0.1)(network, evidence, seed=0).classifier


@pytest.fixture(scope="module")
def images(digits):
    return digits.test.first(100)


ATTACK = PGD(eps=0.1, steps=20)


@pytest.fixture(scope="module")
def ignoring(detector, images):
    return unaware(ATTACK, detector, images, seed=0)


@pytest.fixture(scope="module")
def knowing(detector, images, ignoring):
    return evading(ATTACK, detector, images, seed=0, begun=ignoring)


class TestEvading:
    def test_what_evades_is_wrong_and_below_the_threshold_when_it_is_asked_again(
        self, detector, images, knowing
    ):
        x, y = images.batch(slice(None))
        assert knowing.evaded.any()
        found = knowing.x[knowing.evaded]
        said = detector(found).argmax(dim=1)
        assert (said != y[knowing.evaded]).all()
        assert (detector.score(found) <= detector.threshold + 1e-6).all()
        assert (found - x[knowing.evaded]).abs().max() <= ATTACK.eps + 1e-6
        assert knowing.x.min() >= 0
        assert knowing.x.max() <= 1

    def test_who_knows_the_detector_never_does_worse(self, ignoring, knowing):
        assert (knowing.evaded | ~ignoring.evaded).all()
        assert knowing.standing.count < ignoring.standing.count

    def test_more_classes_never_make_him_worse(self, detector, images, ignoring):
        one, three = (
            evading(ATTACK, detector, images, seed=0, ranks=ranks, begun=ignoring).evaded
            for ranks in (1, 3)
        )
        assert (three | ~one).all()

    def test_follows_from_the_seed_and_leaves_the_model_as_it_is(self, detector, images):
        few = images.first(12)
        state = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
        first, again = (evading(ATTACK, detector, few, seed=3, ranks=1) for _ in range(2))
        assert torch.equal(first.x, again.x)
        assert all(torch.equal(state[name], t) for name, t in detector.state_dict().items())

    def test_an_attack_without_reach_finds_nothing_but_what_was_wrong(self, detector, images):
        begun = judged(detector, images.batch(slice(None))[0], images, seed=0)
        found = evading(PGD(eps=0.0, steps=2), detector, images, seed=0)
        assert torch.equal(found.evaded, begun.evaded)

    @pytest.mark.parametrize(
        ("attack", "ranks", "said"),
        [
            (ATTACK, 0, "ranks=0: expected an integer >= 1"),
            (ATTACK, 10, "ranks=10: expected at most 9, the number of wrong classes"),
            (DeepFool(), 1, "targeted goal: expected one that leads away"),
        ],
    )
    def test_refuses_what_leads_nowhere(self, detector, images, attack, ranks, said):
        with pytest.raises(ValueError, match=said):
            evading(attack, detector, images, seed=0, ranks=ranks)


@pytest.fixture(scope="module")
def on_levels(digits):
    images = digits.test.first(60)
    x, _ = images.batch(slice(None))
    x = (x * 2).round() / 2
    return replace(images, pixels=x, labels=predict(Planted(), x).argmax(dim=1))


class TestPlanted:
    """The score sees every change of the image, and the image is on the levels when clean."""

    def test_an_attack_that_shows_is_found_and_clean_images_are_not_accused(self, on_levels):
        model, attack = Planted(), PGD(eps=0.24, steps=10, step_size=0.24)
        clean = judged(model, on_levels.batch(slice(None))[0], on_levels, seed=0)
        found = unaware(attack, model, on_levels, seed=0)
        assert clean.alarms.count == 0
        assert found.wrong.any()
        assert found.caught is not None
        assert found.caught.value == 1
        assert roc(clean.score, found.score[found.wrong]).auc == 1
        assert found.standing.count == len(on_levels)

    def test_who_knows_it_stays_below_the_threshold(self, on_levels):
        model, attack = Planted(), APGD(eps=0.24, steps=30)
        clean = judged(model, on_levels.batch(slice(None))[0], on_levels, seed=0)
        ignoring = unaware(PGD(eps=0.24, steps=10, step_size=0.24), model, on_levels, seed=0)
        knowing = evading(attack, model, on_levels, seed=0, ranks=3, begun=ignoring)
        assert (knowing.score[knowing.evaded] <= 0.2).all()
        assert knowing.standing.interval[1] < ignoring.standing.interval[0]
        before, after = (
            roc(clean.score, found.score[found.wrong]) for found in (ignoring, knowing)
        )
        assert after.auc <= before.auc


def test_the_wrong_and_less_suspect_image_is_the_worse_one():
    def one(said, score):
        return Judged(
            torch.full((1, 1, 1, 1), score),
            torch.tensor([0]),
            torch.tensor([said]),
            torch.tensor([score]),
            torch.tensor([score > 0.5]),
        )

    assert one(0, 0.1).worse(one(1, 0.9)).score == 0.9
    assert one(1, 0.9).worse(one(0, 0.1)).score == 0.9
    assert one(1, 0.9).worse(one(2, 0.3)).said == 2
    assert one(1, 0.3).worse(one(2, 0.9)).said == 1
