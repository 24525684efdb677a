import json
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import referee as referee_module
from bezoar.attacks import (
    APGD,
    CWL2,
    DDN,
    FGSM,
    FMN,
    NES,
    PGD,
    PGDL2,
    Admix,
    AutoAttack,
    DeepFool,
    FABTargeted,
    FGSMRandomStart,
    Square,
    UniformNoise,
    Universal,
)
from bezoar.attacks.engine import perturb
from bezoar.attacks.protocol import Attack, Ball, Untargeted
from bezoar.classifier import predict, prepare, weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.referee import (
    Measurement,
    Referee,
    Stamp,
    aimed,
    measure,
    metric_of,
    name_of,
    score,
)
from bezoar.results import Facts
from bezoar.seeds import Noise, generator


@pytest.fixture
def classifier(small_convnet, batch):
    """The small network with its mean logits taken away, so that all its borders are near."""
    with torch.no_grad():
        small_convnet[3].bias -= small_convnet(batch[0]).mean(dim=0)
    return small_convnet


@pytest.fixture
def images(classifier):
    """Nine images with gaps in their index; the last two carry another class than is predicted."""
    x = torch.rand(9, 1, 4, 5, generator=generator(0, "tests", "referee"))
    y = predict(classifier, x).argmax(dim=1)
    y[7:] = (y[7:] + 1) % 3
    return ImageSet(x, y, 10 + 2 * np.arange(9), ("a", "b", "c"), "toy/test")


@dataclass(frozen=True, kw_only=True)
class Lying(Attack):
    """Moves every pixel up by ``by`` and crops to ``width``, whatever its eps says."""

    by: float = 0.0
    width: int = 5
    eps: float = 0.1
    steps: int = 1
    restarts: int = 1
    norm: str = field(default="linf", init=False)

    def start(self, x, oracle, noise):
        return Ball(x, x)

    def step(self, state, oracle):
        oracle.logits(state.x)
        return Ball(state.x + self.by, state.x)

    def best(self, state):
        return state.x_adv[..., : self.width]


class Steep(nn.Module):
    """Two classes; not a number where the first pixel is above one half."""

    def forward(self, x):
        pixel = x.flatten(1)[:, 0]
        return torch.stack([torch.where(pixel > 0.5, torch.nan, 1.0), 0 * pixel], dim=1)


class TestScore:
    def test_computes_every_column_itself(self, linear, batch):
        x, y = batch
        x_adv = (x + 0.05).clamp(0, 1)
        with torch.no_grad():
            clean, attacked = linear(x), linear(x_adv)
        found = score(linear, x, x_adv, y, np.arange(12), norm="linf")
        assert found["label"].tolist() == y.tolist()
        assert found["clean"].tolist() == clean.argmax(dim=1).tolist()
        assert found["adversarial"].tolist() == attacked.argmax(dim=1).tolist()
        expected = F.cross_entropy(attacked, y, reduction="none").numpy()
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
        np.testing.assert_allclose(found["distance"], (x_adv - x).flatten(1).amax(1), rtol=1e-6)

    def test_measures_in_the_norm_that_is_asked_for(self, linear, batch):
        x = 0.5 * batch[0]
        columns = [
            score(linear, x, x + 0.1, batch[1], np.arange(12), norm=n) for n in ("linf", "l2")
        ]
        np.testing.assert_allclose(columns[0]["distance"], 0.1, rtol=1e-5)
        np.testing.assert_allclose(columns[1]["distance"], 0.1 * 20**0.5, rtol=1e-5)

    @pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
    def test_refuses_what_lies_outside_the_box(self, linear, batch, value):
        x_adv = batch[0].clone()
        x_adv[3, 0, 1, 1] = value
        with pytest.raises(ValueError, match=r"x_adv with values in .*: expected \[0, 1\]"):
            score(linear, batch[0], x_adv, batch[1], np.arange(12), norm="linf")

    @pytest.mark.parametrize("shape", [(12, 1, 5, 4), (11, 1, 4, 5), (12, 1, 4, 1)])
    def test_refuses_another_shape(self, linear, batch, shape):
        with pytest.raises(ValueError, match=r"x_adv of shape .*: expected \(12, 1, 4, 5\)"):
            score(linear, *(batch[0], torch.zeros(shape), batch[1]), np.arange(12), norm="linf")

    def test_an_answer_that_is_no_number_is_no_class(self):
        # argmax takes the NaN for the largest: these images would count as robust.
        x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
        found = score(Steep(), x, x + 0.9, y, np.arange(3), norm="linf")
        assert (found["clean"].tolist(), found["adversarial"].tolist()) == ([0] * 3, [-1] * 3)
        assert found["clean_loss"].max() < 1
        assert found["loss"].tolist() == [0] * 3


class TestTrustsNoAttack:
    def test_one_that_leaves_its_ball_shows_its_distance(self, classifier, images):
        shrunk = replace(images, pixels=0.5 * images.pixels)
        facts = measure(Lying(by=0.4), classifier, shrunk, seed=0).facts
        np.testing.assert_allclose(facts.distance, 0.4, rtol=1e-5)

    @pytest.mark.parametrize("steps", [1, 2])
    @pytest.mark.parametrize("by", [5.0, -5.0, float("nan")])
    def test_one_that_leaves_the_box_is_refused(self, by, steps, classifier, images):
        with pytest.raises(ValueError, match=r"x_adv with values in .*: expected \[0, 1\]"):
            measure(Lying(by=by, steps=steps), classifier, images, seed=0)

    @pytest.mark.parametrize("steps", [1, 2])
    @pytest.mark.parametrize("width", [0, 1, 3])
    def test_one_that_hands_back_another_shape_is_refused(self, width, steps, classifier, images):
        with pytest.raises(ValueError, match=r"x_adv of shape .*: expected .*; correct Lying\("):
            measure(Lying(width=width, steps=steps), classifier, images, seed=0)

    def test_one_that_does_nothing_has_fooled_nobody(self, classifier, images):
        facts = measure(Lying(by=0.0), classifier, images, seed=0).facts
        assert facts.robust.tolist() == [True] * 7 + [False] * 2
        assert facts.distance.tolist() == [0.0] * 9


@pytest.mark.parametrize(
    "attack",
    [FGSM(eps=0.05), PGD(eps=0.05, steps=4), PGDL2(eps=0.2, steps=4), UniformNoise(eps=0.3)],
    ids=repr,
)
class TestMeasurement:
    def test_its_facts_are_those_of_the_images_it_keeps(self, attack, classifier, images):
        found = measure(attack, classifier, images, seed=0)
        x_adv, y = torch.from_numpy(found.x_adv), images.labels
        again = score(classifier, images.pixels, x_adv, y, images.index, norm=attack.norm)
        for name, column in again.items():
            np.testing.assert_array_equal(getattr(found.facts, name), column)

    def test_an_image_wrong_from_the_start_is_not_robust(self, attack, classifier, images):
        facts = measure(attack, classifier, images, seed=0).facts
        assert (facts.clean != facts.label).tolist() == [False] * 7 + [True] * 2
        assert not facts.robust[7:].any()

    def test_repeats_to_the_byte(self, attack, classifier, images):
        first, second = (measure(attack, classifier, images, seed=5) for _ in range(2))
        assert first.x_adv.tobytes() == second.x_adv.tobytes()
        assert first.stamp == second.stamp

    def test_leaves_the_classifier_and_the_images_alone(self, attack, classifier, images):
        classifier.train()
        before, pixels = weights_hash(classifier), images.pixels.clone()
        measure(attack, classifier, images, seed=0)
        assert weights_hash(classifier) == before
        assert classifier.training
        assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
        assert torch.equal(images.pixels, pixels)

    @pytest.mark.parametrize("unit", [1, 2, 4, 9, 1000])
    def test_units_cut_the_set_and_change_nothing(
        self, attack, unit, classifier, images, monkeypatch
    ):
        whole = measure(attack, classifier, images, seed=0)
        monkeypatch.setattr(referee_module, "UNIT", unit)
        parts = Referee(attack, classifier, images, seed=0)
        assert parts.units == -(-9 // unit)
        facts, x_adv = zip(*parts, strict=True)
        joined = Facts.joined(facts)
        np.testing.assert_allclose(np.concatenate(x_adv), whole.x_adv, atol=1e-6)
        assert joined.index.tolist() == images.index.tolist()
        assert joined.adversarial.tolist() == whole.facts.adversarial.tolist()
        assert joined.first_success.tolist() == whole.facts.first_success.tolist()
        assert joined.forward.tolist() == whole.facts.forward.tolist()

    def test_a_unit_alone_is_its_part_of_the_whole(self, attack, classifier, images, monkeypatch):
        monkeypatch.setattr(referee_module, "UNIT", 4)
        whole = measure(attack, classifier, images, seed=0)
        facts, x_adv = Referee(attack, classifier, images, seed=0).unit(2)
        assert facts.index.tolist() == [26]
        assert x_adv.tobytes() == whole.x_adv[8:].tobytes()

    def test_noise_belongs_to_the_image_and_not_to_its_place(self, attack, classifier, images):
        whole = measure(attack, classifier, images, seed=0)
        some = measure(attack, classifier, images.take(np.array([1, 4, 8])), seed=0)
        np.testing.assert_allclose(some.x_adv, whole.x_adv[[1, 4, 8]], atol=1e-6)


class TestSearching:
    def test_what_is_wrong_from_the_start_is_not_searched_for(self, classifier, images):
        facts = measure(PGD(eps=0.05, steps=4), classifier, images, seed=0).facts
        assert facts.first_success[7:].tolist() == [0, 0]
        assert facts.backward[7:].tolist() == [0, 0]
        assert facts.distance[7:].tolist() == [0, 0]

    def test_one_step_is_taken_on_all_so_that_the_loss_is_that_of_the_set(self, classifier, images):
        facts = measure(FGSM(eps=0.05), classifier, images, seed=0).facts
        np.testing.assert_allclose(facts.distance, 0.05, rtol=1e-4)
        assert facts.backward.tolist() == [1] * 9

    def test_every_draw_of_the_noise_is_judged(self, classifier, images):
        once = measure(UniformNoise(eps=0.9), classifier, images, seed=0).facts
        often = measure(UniformNoise(eps=0.9, restarts=50), classifier, images, seed=0).facts
        assert often.robust.sum() < once.robust.sum()
        assert not (often.robust & ~once.robust).any()

    def test_where_neighbours_matter_no_image_leaves_the_batch(self, classifier, images):
        class Centred(nn.Module):
            def forward(self, x):
                return classifier((x - x.mean(dim=0) + 0.5).clamp(0, 1))

        x = images.pixels
        right = replace(images, labels=predict(Centred(), x).argmax(dim=1))
        found = measure(PGD(eps=0.05, steps=4), Centred(), right, seed=0)
        assert found.facts.backward.tolist() == [4] * 9


class TestAim:
    @pytest.fixture
    def other(self, linear):
        return linear

    def test_images_made_on_other_weights_are_transfer(self, classifier, other, images):
        stamp = measure(FGSM(eps=0.05), classifier, images, seed=0, aim=other).stamp
        assert stamp.made_on == weights_hash(other)
        assert stamp.scored_on == weights_hash(classifier)
        assert stamp.access == "transfer"
        assert stamp.as_dict()["access"] == "transfer"

    def test_images_made_on_these_weights_are_white_box(self, classifier, images):
        stamp = measure(FGSM(eps=0.05), classifier, images, seed=0).stamp
        assert stamp.made_on == stamp.scored_on == weights_hash(classifier)
        assert stamp.access == "white-box"

    def test_the_attack_sees_the_aim_and_the_judge_is_the_classifier(
        self, classifier, other, images
    ):
        found = measure(FGSM(eps=0.05), classifier, images, seed=0, aim=other)
        own = measure(FGSM(eps=0.05), other, images, seed=0)
        assert found.x_adv.tobytes() == own.x_adv.tobytes()
        assert found.facts.clean.tolist() == predict(classifier, images.pixels).argmax(1).tolist()

    def test_who_aims_elsewhere_does_not_know_what_the_classifier_gets_wrong(
        self, classifier, other, images
    ):
        labels = predict(other, images.pixels).argmax(dim=1)
        attack, known = PGD(eps=0.01, steps=4), replace(images, labels=labels)
        facts = measure(attack, classifier, known, seed=0, aim=other).facts
        assert (facts.clean != facts.label).any()
        assert (facts.distance > 0).all()

    def test_its_name_says_so(self, classifier, other, images):
        attack = FGSM(eps=0.05)
        found = Referee(attack, classifier, images, seed=0, aim=other).stamp
        assert found.metric == "transfer:fgsm@0.05"
        twin = deepcopy(classifier)
        assert Referee(attack, classifier, images, seed=0, aim=twin).stamp.metric == "fgsm@0.05"

    def test_who_aims_elsewhere_goes_on_when_the_aim_is_fooled(self, classifier, other, images):
        # An image that just fools one network rarely fools another.
        attack = PGD(eps=0.3, steps=6)
        found = measure(attack, classifier, images, seed=0, aim=other)
        x, index = images.pixels, images.index
        noise = Noise.first(0, "pgd6/toy/test", index)
        expected = perturb(attack, prepare(other), x, Untargeted(images.labels), noise).x_adv
        assert found.x_adv.tobytes() == expected.numpy().tobytes()
        assert found.facts.backward.tolist() == [6] * 9

    def test_one_changed_weight_makes_it_transfer(self, classifier, images):
        trained = torch.nn.Sequential(*classifier)
        before = weights_hash(trained)
        stamp = Referee(FGSM(), classifier, images, seed=0).stamp
        with torch.no_grad():
            classifier[3].bias[0] += 1e-3
        assert stamp.scored_on == before
        assert Referee(FGSM(), classifier, images, seed=0).stamp.scored_on != before


class TestAwayFromThePrediction:
    def test_one_step_leads_away_from_what_is_predicted(self, classifier, images):
        found = measure(FGSM(eps=0.05), classifier, images, seed=0, away_from="predicted")
        predicted = replace(images, labels=predict(classifier, images.pixels).argmax(dim=1))
        expected = measure(FGSM(eps=0.05), classifier, predicted, seed=0)
        assert found.x_adv.tobytes() == expected.x_adv.tobytes()

    def test_but_accuracy_is_counted_by_the_true_class(self, classifier, images):
        found = measure(FGSM(eps=0.05), classifier, images, seed=0, away_from="predicted")
        assert found.facts.label.tolist() == images.labels.tolist()
        assert found.facts.clean_accuracy.count == 7


class TestRefuses:
    def test_images_that_the_classifier_cannot_take(self, classifier):
        wide = ImageSet(
            torch.zeros(2, 3, 4, 5), torch.tensor([0, 1]), np.arange(2), ("a", "b"), "w"
        )
        with pytest.raises(ValueError, match=r"images of shape \(3, 4, 5\): expected images that"):
            Referee(FGSM(), classifier, wide, seed=0)

    def test_another_number_of_classes(self, classifier, images):
        with pytest.raises(ValueError, match="expected 4 logits an image"):
            Referee(FGSM(), classifier, replace(images, classes=("a", "b", "c", "d")), seed=0)

    def test_an_aim_that_does_not_fit_either(self, classifier, images):
        with pytest.raises(ValueError, match="expected 3 logits an image"):
            Referee(FGSM(), classifier, images, seed=0, aim=nn.Flatten())


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (FGSM(), "fgsm"),
        (FGSMRandomStart(), "fgsm-rs"),
        (PGD(steps=40), "pgd40"),
        (PGD(steps=1), "pgd"),
        (PGDL2(steps=20), "pgd-l2-20"),
        (UniformNoise(), "noise"),
        (Lying(steps=3), "lying3"),
        (PGD(steps=40, loss="dlr"), "pgd-dlr40"),
        (APGD(), "apgd100"),
        (FMN(eps=1, norm="l2"), "fmn-l2-100"),
        (AutoAttack(), "autoattack"),
        (Admix(), "admix10"),
        (Universal(), "universal"),
        (Universal(norm="l2"), "universal-l2"),
    ],
    ids=repr,
)
def test_an_attack_is_named_for_its_method_and_steps(attack, name):
    assert name_of(attack) == name


class Border(nn.Module):
    """Class 0 up to 0.5 of the first pixel, and wherever the second is above 0.5: a step."""

    def forward(self, x):
        first, second = x.flatten(1)[:, :2].T
        score = 0.5 - first + 10.0 * (second > 0.5)
        return torch.stack([score, -score], dim=1)


class TestWithoutARadius:
    @pytest.fixture
    def row(self):
        """Distances 0.3 and 0.1; one that no gradient leads out of; one wrong from the start."""
        x = torch.zeros(4, 1, 2, 2)
        x[:, 0, 0, 0] = torch.tensor([0.2, 0.4, 0.4, 0.9])
        x[2, 0, 0, 1] = 1
        return ImageSet(x, torch.zeros(4, dtype=torch.int64), np.arange(4), ("a", "b"), "row/test")

    @pytest.mark.parametrize(
        "attack",
        [DeepFool(), DeepFool(norm="linf"), FMN(), FMN(norm="l1"), DDN(), FABTargeted(steps=20)],
        ids=repr,
    )
    def test_the_facts_hold_the_distance_of_each_image(self, attack, row):
        found = measure(attack, Border(), row, seed=0)
        assert found.stamp.eps == float("inf")
        assert found.stamp.metric == name_of(attack)
        reach = found.facts.reach()
        np.testing.assert_allclose(reach[:2], [0.3, 0.1], rtol=0.1)
        assert reach[2:].tolist() == [float("inf"), 0.0]
        assert (reach[:2] >= [0.3, 0.1]).all()
        np.testing.assert_allclose(reach[:2], found.facts.distance[:2], rtol=1e-6)

    def test_what_was_wrong_from_the_start_is_not_attacked(self, row):
        facts = measure(FMN(), Border(), row, seed=0).facts
        assert (facts.backward[3], facts.distance[3]) == (0, 0)

    def test_no_radius_is_null_in_json(self, row):
        stamp = Referee(FMN(), Border(), row, seed=0).stamp
        assert stamp.as_dict()["eps"] is None
        assert json.loads(json.dumps(stamp.as_dict(), allow_nan=False))["metric"] == "fmn100"


class Silent(nn.Module):
    """Another classifier, but not a number where the first pixel is above a limit."""

    def __init__(self, inside, limit):
        super().__init__()
        self.inside, self.limit = inside, limit

    def forward(self, x):
        silent = x[:, :1, 0, 0] > self.limit
        return torch.where(silent, torch.nan, self.inside(x)) * torch.where(silent, torch.nan, 1.0)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=0.3),
        PGD(eps=0.3, steps=5, restarts=2),
        APGD(eps=0.3, steps=5),
        AutoAttack(eps=0.3, steps=4, targets=2, queries=8),
        DeepFool(norm="linf"),
        FMN(steps=20),
        CWL2(steps=20, searches=2),
        FABTargeted(steps=5, restarts=2),
        NES(eps=0.3, steps=4, samples=4),
        Square(eps=0.3, steps=10),
    ],
    ids=repr,
)
class TestNoAnswer:
    def test_one_image_is_named_and_the_others_finish_as_without_it(
        self, attack, classifier, images
    ):
        x = 0.8 * images.pixels
        x[4, 0, 0, 0] = 1
        given = replace(images, pixels=x)
        found = measure(attack, Silent(classifier, 0.99), given, seed=0)
        alone = measure(attack, Silent(classifier, 0.99), given.take(OTHERS), seed=0)
        assert found.facts.clean[4] == found.facts.adversarial[4] == -1
        assert not found.facts.robust[4]
        np.testing.assert_array_equal(found.x_adv[4], x[4])
        np.testing.assert_allclose(found.x_adv[OTHERS], alone.x_adv, atol=1e-5)
        for name, column in alone.facts.columns().items():
            np.testing.assert_allclose(getattr(found.facts, name)[OTHERS], column, atol=1e-4)
            assert np.isfinite(column).all()

    def test_a_walk_into_silence_stops_nothing_and_counts_as_fooled(
        self, attack, classifier, images
    ):
        x = images.pixels.clone()
        x[:, 0, 0, 0] = 0.49
        labels = predict(classifier, x).argmax(dim=1)
        given = replace(images, pixels=x, labels=labels)
        facts = measure(attack, Silent(classifier, 0.5), given, seed=0).facts
        assert (facts.clean >= 0).all()
        assert all(np.isfinite(column).all() for column in facts.columns().values())
        assert not facts.robust[facts.adversarial < 0].any()


OTHERS = np.array([0, 1, 2, 3, 5, 6, 7, 8])


def test_who_is_silent_to_all_is_refused(classifier, images):
    with pytest.raises(ValueError, match="classifier output is not finite: expected logits"):
        Referee(PGD(), Silent(classifier, -1.0), images, seed=0)


class TestTargets:
    @pytest.mark.parametrize("attack", [PGD(eps=0.9, steps=10), FGSM(eps=0.3), DDN()], ids=repr)
    def test_success_is_the_target_and_nothing_else(self, attack, classifier, images):
        found = measure(attack, classifier, images, seed=0, target="random")
        facts = found.facts
        assert (facts.target != facts.label).all()
        assert facts.success.tolist() == (facts.adversarial == facts.target).tolist()
        assert facts.outcome().count == facts.success.sum() > 0
        assert (found.stamp.target, found.stamp.metric) == (
            "random",
            f"targeted:{metric_of(attack)}",
        )

    def test_who_is_where_he_should_be_is_left_alone_and_who_is_just_wrong_is_not(
        self, classifier, images
    ):
        clean = predict(classifier, images.pixels).argmax(dim=1)
        there = (clean + 1) % 3
        there[7:] = torch.where(images.labels[7:] == clean[7:], there[7:], clean[7:])
        facts = measure(PGD(eps=0.01, steps=3), classifier, images, seed=0, target=there).facts
        assert facts.backward[7:].tolist() == [0, 0]
        assert facts.reach(0.01)[7:].tolist() == [0, 0]
        other = 3 - images.labels - clean
        led = torch.where(images.labels == clean, there, other)
        facts = measure(PGD(eps=0.01, steps=3), classifier, images, seed=0, target=led).facts
        assert (facts.backward > 0).all()

    def test_other_targets_have_another_stamp(self, classifier, images):
        ways = [(images.labels + k) % 3 for k in (1, 2)]
        stamps = {Referee(PGD(), classifier, images, seed=0, target=t).stamp for t in ways}
        assert len(stamps) == 2

    def test_images_of_the_class_itself_are_left_out(self, classifier, images):
        facts = measure(PGD(steps=2), classifier, images, seed=0, target=1).facts
        assert facts.index.tolist() == images.index[images.labels.numpy() != 1].tolist()
        assert facts.target.tolist() == [1] * len(facts)

    def test_random_targets_belong_to_the_image_and_the_seed(self, images):
        _, all_of_them = aimed(images, "random", 0)
        _, some = aimed(images.take(np.array([1, 4, 8])), "random", 0)
        assert some.tolist() == all_of_them[[1, 4, 8]].tolist()
        drawn = torch.stack([aimed(images, "random", seed)[1] for seed in range(20)])
        assert (drawn != images.labels).all()
        assert {len(column.unique()) for column in drawn.T} == {2}

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (3, "target=3: expected a class, 0 to 2"),
            (-1, "target=-1: expected a class, 0 to 2"),
            ("any", "target='any': expected a class number, 'random' or"),
            (torch.zeros(2, dtype=torch.int64), "target of 2 classes: expected 9"),
            (torch.full((9,), 3), "target hold class 3: expected 0 to 2"),
        ],
        ids=str,
    )
    def test_a_target_that_is_none_is_refused(self, classifier, images, target, message):
        with pytest.raises(ValueError, match=message):
            Referee(PGD(), classifier, images, seed=0, target=target)

    def test_targets_that_are_the_images_own_are_counted_and_refused(self, classifier, images):
        target = (images.labels + 1) % 3
        target[[0, 5]] = images.labels[[0, 5]]
        with pytest.raises(ValueError, match="target: 2 are the images' own classes: expected oth"):
            Referee(PGD(), classifier, images, seed=0, target=target)

    @pytest.mark.parametrize("attack", [DeepFool(), AutoAttack(), FABTargeted()], ids=name_of)
    def test_an_attack_that_cannot_aim_is_refused_by_name(self, attack, classifier, images):
        with pytest.raises(ValueError, match=f"{name_of(attack)}: targeted goal: expected one"):
            Referee(attack, classifier, images, seed=0, target=0)


@pytest.mark.parametrize("attack", [Admix(steps=2), Universal(epochs=2)], ids=repr)
class TestFitted:
    def test_is_refused_before_it_was_fitted(self, attack, classifier, images):
        message = f"{name_of(attack)}: expected one that was fitted; call its fit on train or val"
        with pytest.raises(ValueError, match=message):
            Referee(attack, classifier, images, seed=0)

    def test_is_refused_on_the_images_that_it_was_fitted_on(self, attack, classifier, images):
        fitted = attack.fit(classifier, images.first(4), seed=0)
        message = f"{name_of(attack)}: fitted on toy/test, which it attacks: expected train or val"
        with pytest.raises(ValueError, match=message):
            Referee(fitted, classifier, images.take(slice(4, 9)), seed=0)

    def test_is_measured_like_any_other(self, attack, classifier, images):
        others = replace(images, name="toy/validation", pixels=1 - images.pixels)
        fitted = attack.fit(classifier, others, seed=0)
        found = measure(fitted, classifier, images, seed=0)
        assert found.stamp.recipe == repr(fitted)
        assert found.stamp.metric == f"{name_of(attack)}@0.1"
        assert (found.facts.distance <= 0.1 + 1e-6).all()


def test_autoattack_is_measured_like_any_other(classifier, images):
    attack = AutoAttack(eps=0.1, steps=5, targets=2, queries=10)
    found = measure(attack, classifier, images, seed=0)
    parts = [measure(part, classifier, images, seed=0) for part in attack.parts[:2]]
    least = min(part.facts.robust_accuracy.value for part in parts)
    assert found.stamp.metric == "autoattack@0.1"
    assert found.facts.robust_accuracy.value <= least
    assert (found.facts.distance <= 0.1 + 1e-6).all()


def test_the_stamp_holds_the_whole_recipe(classifier, images):
    stamp = Referee(PGD(eps=8 / 255, steps=40), classifier, images, seed=3).stamp
    name = weights_hash(classifier)
    assert isinstance(stamp, Stamp)
    assert stamp.metric == "pgd40@0.0313725"
    assert stamp.recipe == repr(PGD(eps=8 / 255, steps=40))
    assert (stamp.norm, stamp.eps, stamp.steps) == ("linf", 8 / 255, 40)
    assert (stamp.data, stamp.seed, stamp.made_on) == ("toy/test", 3, name)


def test_a_metric_may_be_named_by_the_caller(classifier, images):
    found = measure(FGSM(), classifier, images, seed=0, metric="pgd40@0.1 5 starts")
    assert isinstance(found, Measurement)
    assert found.stamp.metric == "pgd40@0.1 5 starts"
    assert found.seconds > 0
