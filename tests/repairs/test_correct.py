"""Correct, in closed form: FGSM twins of a linear classifier can be written down."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bezoar.attacks import FGSM, PGD, FGSMRandomStart
from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.fit import Supervised, cross_entropy, fit
from bezoar.repairs import Accumulate, ByRound, Correct, Misclassified, Online, Stop, TopLoss

ONE_STEP = {"batch": 12, "inner": FGSM(eps=0.2), "stop": Stop(rounds=1, target=2, judge=FGSM())}


@pytest.fixture
def images(batch):
    x, y = batch
    return ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve")


@pytest.fixture
def evidence(images):
    return Evidence(images, images)


def losses(linear, x, y):
    return F.cross_entropy(linear(x), y, reduction="none").detach()


def twins_of(linear, x, y, eps=0.2):
    """The gradient of the loss at x is W^T (p - e_y): FGSM follows its sign."""
    p = linear(x).softmax(dim=1).detach()
    gradient = (p - F.one_hot(y, 3)) @ linear[1].weight.detach()
    return (x + eps * gradient.sign().reshape(x.shape)).clamp(0, 1)


@pytest.mark.parametrize("lam", [0, 0.25, 0.5, 1])
def test_the_loss_weighs_images_against_their_twins(linear, batch, evidence, lam):
    clean = losses(linear, *batch).mean()
    of_twins = losses(linear, twins_of(linear, *batch), batch[1]).mean()
    log = Correct(lam=lam, **ONE_STEP)(linear, evidence, seed=0).log
    assert log[1]["loss"] == pytest.approx(((1 - lam) * clean + lam * of_twins).item(), rel=1e-5)
    assert log[1]["added"] == 12


@pytest.mark.parametrize(("share", "chosen"), [(0.25, 3), (0.5, 6), (1, 12), (0, 1)])
def test_top_loss_learns_from_the_twins_with_the_highest_loss(
    linear, batch, evidence, share, chosen
):
    of_twins = losses(linear, twins_of(linear, *batch), batch[1])
    expected = of_twins.sort(descending=True).values[:chosen].mean().item()
    repair = Correct(lam=1, select=TopLoss(share), **ONE_STEP)
    log = repair(linear, evidence, seed=0).log
    assert log[1]["loss"] == pytest.approx(expected, rel=1e-5)
    assert log[1]["added"] == chosen


def test_misclassified_learns_from_the_twins_that_fool(linear, batch, evidence):
    x_adv = twins_of(linear, *batch, eps=0.02)
    fooled = linear(x_adv).argmax(dim=1) != batch[1]
    expected = losses(linear, x_adv, batch[1])[fooled].mean().item()
    repair = Correct(lam=1, select=Misclassified(), **{**ONE_STEP, "inner": FGSM(eps=0.02)})
    log = repair(linear, evidence, seed=0).log
    assert log[1]["loss"] == pytest.approx(expected, rel=1e-5)
    assert 0 < log[1]["added"] == fooled.sum().item() < 12


def test_where_no_twin_fools_the_twins_add_nothing(linear, batch):
    x, _ = batch
    right = linear(x).argmax(dim=1)
    easy = ImageSet(x, right, np.arange(12), ("a", "b", "c"), "easy")
    setting = {**ONE_STEP, "inner": FGSM(eps=0)}
    repair = Correct(lam=0.5, select=Misclassified(), **setting)
    log = repair(linear, Evidence(easy, easy), seed=0).log
    assert log[1]["loss"] == pytest.approx(0.5 * losses(linear, x, right).mean().item(), rel=1e-5)
    assert log[1]["added"] == 0


def test_with_nothing_to_learn_from_the_weights_stay(linear, batch):
    x, _ = batch
    right = linear(x).argmax(dim=1)
    easy = ImageSet(x, right, np.arange(12), ("a", "b", "c"), "easy")
    setting = {**ONE_STEP, "inner": FGSM(eps=0)}
    repair = Correct(lam=1, select=Misclassified(), **setting)
    repaired = repair(linear, Evidence(easy, easy), seed=0)
    assert weights_hash(repaired.classifier) == weights_hash(linear)


def test_without_weight_on_the_twins_it_is_plain_training_up_to_rounding(linear, images, evidence):
    # Not to the bit: images and twins share a batch, whose sums run in another order.
    stop = Stop(rounds=1, target=2)
    repaired = Correct(lam=0, batch=4, stop=stop)(linear, evidence, seed=3).classifier
    meter, plain = Meter(), deepcopy(linear)
    learning = Supervised(plain, images, loss=cross_entropy(meter), lr=1e-3, meter=meter)
    fit(learning, epochs=1, batch=4, seed=3)
    torch.testing.assert_close(repaired[1].weight, plain[1].weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("lam", "twins", "passes"), [(0.5, Online(), 2), (1, Online(), 1), (0.5, ByRound(), 2)]
)
def test_an_epoch_costs_what_the_docstring_says(linear, evidence, lam, twins, passes):
    stop = Stop(rounds=1, target=2, images=1)
    inner = PGD(eps=0.1, steps=3)
    cost = Correct(lam=lam, twins=twins, inner=inner, stop=stop)(linear, evidence, seed=0).cost
    assert cost.images == 12
    assert cost.backward >= 12 * (passes + 3)
    assert cost.backward <= 12 * (passes + 3) + 2 * 10  # the judge's, on one image twice


@pytest.mark.parametrize("inner", [FGSM(eps=0.2), FGSMRandomStart(eps=0.2)], ids=repr)
def test_online_twins_are_made_on_the_weights_of_the_moment(linear, batch, images, inner):
    x, y = batch
    source = Online().source(inner, images, 0, Meter())
    source.begin(linear, 0)
    linear[1].weight.data.neg_()
    (now,) = source.twins(linear, x, y, torch.arange(12))
    afresh = Online().source(inner, images, 0, Meter())
    afresh.begin(linear, 0)
    assert torch.equal(now, afresh.twins(linear, x, y, torch.arange(12))[0])


def test_twins_by_round_are_those_of_the_weights_the_round_began_with(linear, batch, images):
    x, y = batch
    expected = twins_of(linear, x, y)
    source = ByRound().source(FGSM(eps=0.2), images, 0, Meter())
    source.begin(linear, 0)
    linear[1].weight.data.neg_()
    rows = torch.tensor([7, 2])
    (stale,) = source.twins(linear, x[rows], y[rows], rows)
    torch.testing.assert_close(stale, expected[rows])
    source.begin(linear, 1)
    (fresh,) = source.twins(linear, x[rows], y[rows], rows)
    torch.testing.assert_close(fresh, twins_of(linear, x, y)[rows])


def test_accumulated_twins_are_those_of_all_rounds_so_far(linear, batch, images):
    x, y = batch
    rows = torch.arange(12)
    source = Accumulate().source(FGSM(eps=0.2), images, 0, Meter())
    expected = [twins_of(linear, x, y)]
    source.begin(linear, 0)
    linear[1].weight.data.neg_()
    expected += [twins_of(linear, x, y)]
    source.begin(linear, 1)
    torch.testing.assert_close(source.twins(linear, x, y, rows), expected)


def test_noise_of_a_twin_depends_on_image_and_round_not_on_its_neighbours(linear, batch, images):
    x, y = batch
    source = Online().source(FGSMRandomStart(eps=0.2), images, 0, Meter())
    source.begin(linear, 0)
    (whole,) = source.twins(linear, x, y, torch.arange(12))
    (alone,) = source.twins(linear, x[5:6], y[5:6], torch.tensor([5]))
    torch.testing.assert_close(alone, whole[5:6])
    source.begin(linear, 1)
    (later,) = source.twins(linear, x[5:6], y[5:6], torch.tensor([5]))
    assert not torch.equal(later, alone)


def test_each_set_of_accumulated_twins_weighs_the_same(linear, evidence, batch):
    stop = Stop(rounds=2, target=2, judge=FGSM())
    setting = {"inner": FGSM(eps=0.2), "batch": 12, "lam": 1, "lr": 0.0, "stop": stop}
    log = Correct(twins=Accumulate(), **setting)(linear, evidence, seed=0).log
    of_twins = losses(linear, twins_of(linear, *batch), batch[1]).mean().item()
    assert [row["loss"] for row in log[1:]] == pytest.approx([of_twins, of_twins], rel=1e-5)
    assert [row["added"] for row in log] == [0, 12, 24]


def test_a_classifier_that_meets_the_target_is_left_as_it_is(linear, evidence):
    stop = Stop(rounds=5, target=0, judge=FGSM())
    done = Correct(inner=FGSM(), stop=stop)(linear, evidence, seed=0)
    assert len(done.log) == 1
    assert weights_hash(done.classifier) == weights_hash(linear)


def test_stops_when_the_target_is_met(linear, evidence):
    def log(target):
        stop = Stop(rounds=5, target=target, judge=FGSM())
        return Correct(inner=FGSM(), stop=stop, lr=0.05)(linear, evidence, seed=0).log

    robust = [row["robust"] for row in log(2)]
    assert len(robust) == 6
    assert robust[0] < max(robust)
    assert len(log(max(robust))) == robust.index(max(robust)) + 1


def test_the_best_round_on_validation_is_kept(linear, evidence, images):
    stop = Stop(rounds=6, target=2, judge=FGSM(eps=0.05), images=0)
    repaired = Correct(inner=FGSM(eps=0.05), lr=0.3, batch=3, stop=stop)(linear, evidence, seed=0)
    again = stop.judgement(repaired.classifier, images, round_=0, seed=0, meter=Meter())
    robust = [row["robust"] for row in repaired.log[1:]]
    assert again.row["robust"] == max(robust) > min(robust)


def test_the_judge_sees_as_many_validation_images_as_asked(linear, images):
    meters = [Meter(), Meter(), Meter()]
    for count, meter in zip((4, 0, 99), meters, strict=True):
        Stop(images=count, judge=FGSM(eps=0)).judgement(
            linear, images, round_=0, seed=0, meter=meter
        )
    right = linear(images.pixels).argmax(dim=1) == images.labels
    expected = [n + 3 * right[:n].sum().item() for n in (4, 12, 12)]
    assert [meter.forward for meter in meters] == expected


def test_a_loss_that_overflows_is_named_with_its_step(linear, evidence):
    with pytest.raises(FloatingPointError, match=r"loss=.* in epoch 1, step 2: .* lower the lr"):
        Correct(inner=FGSM(), lr=3e37, batch=6, stop=Stop(judge=FGSM()))(linear, evidence, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lam": -0.1}, r"lam=-0.1: expected a number in \[0, 1\]"),
        ({"lam": float("nan")}, "lam=nan"),
        ({"lr": -1}, "lr=-1"),
        ({"batch": 0}, "batch=0"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Correct(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"rounds": 0}, "rounds=0"), ({"target": -1}, "target=-1"), ({"images": -1}, "images=-1")],
)
def test_a_stop_out_of_range_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Stop(**setting)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match="share="):
        TopLoss(share)
