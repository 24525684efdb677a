"""Three images, attacked on paper: the tables below are counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar import audit
from bezoar.attacks import FGSM, FMN, PGD, Square, UniformNoise
from bezoar.data.imageset import ImageSet
from bezoar.referee import Measurement, Stamp, measure
from bezoar.report import tables
from bezoar.results import Facts, Rate
from bezoar.sanity import Warning
from bezoar.verdicts import at_least

NOTES = {"command": "bezoar", "version": "0", "revision": "abc", "machine": "2 cores"}


INF = float("inf")


def measured(
    metric,
    robust,
    index=None,
    *,
    norm="linf",
    eps=0.1,
    aim="w",
    wrong=(),
    distance=None,
    steps=1,
):
    """A measurement of images of class 0: ``robust`` says which stand, ``wrong`` who never did."""
    count = len(robust)
    zeros = np.zeros(count, np.int64)
    adversarial = 1 - np.array(robust, np.int64)
    clean = zeros.copy()
    clean[list(wrong)] = 1
    facts = Facts(
        index=np.arange(count) if index is None else np.array(index),
        label=zeros,
        clean=clean,
        adversarial=adversarial,
        clean_loss=np.full(count, 0.5, np.float32),
        loss=np.arange(count, dtype=np.float32),
        distance=np.array([eps] * count if distance is None else distance, np.float32),
        first_success=-adversarial,
        forward=np.full(count, 2),
        backward=np.full(count, 1),
        zero_gradient=zeros.astype(bool),
    )
    stamp = Stamp(
        metric=metric,
        attack=metric.partition("@")[0],
        recipe="",
        norm=norm,
        eps=eps,
        steps=steps,
        data="three/test",
        seed=7,
        made_on=aim,
        scored_on="w",
    )
    return Measurement(stamp, facts, np.zeros((count, 1, 2, 2), np.float32))


class TestWorstCase:
    def test_an_image_stands_only_if_it_stands_under_every_attack(self):
        both = [measured("a@0.1", [1, 1, 0, 0]), measured("b@0.1", [1, 0, 1, 0])]
        assert audit.worst_case(both, 0.1) == Rate(1, 4)

    def test_only_images_that_all_attacked_count(self):
        few = measured("b@0.1", [1, 0], index=[1, 3])
        assert audit.worst_case([measured("a@0.1", [0, 1, 1, 1]), few], 0.1) == Rate(1, 2)
        assert audit.worst_case([few, measured("a@0.1", [0, 1, 1, 1])], 0.1) == Rate(1, 2)

    def test_an_image_that_was_wrong_before_does_not_stand(self):
        assert audit.worst_case([measured("a@0.1", [1, 1], wrong=[0])], 0.1) == Rate(1, 2)

    def test_other_radii_other_norms_and_transfer_do_not_count(self):
        others = [
            measured("a@0.2", [0, 0], eps=0.2),
            measured("b@0.1", [0, 0], norm="l2"),
            measured("c@0.1", [0, 0], aim="other"),
        ]
        assert audit.worst_case([measured("d@0.1", [1, 1]), *others], 0.1) == Rate(2, 2)
        with pytest.raises(ValueError, match=r"eps=0.1: expected at least one attack of this"):
            audit.worst_case(others, 0.1)


class TestTargets:
    def led(self, metric, adversarial, eps=0.1):
        """Images of class 0 that are to be led to class 2."""
        made = measured(metric, [1] * len(adversarial), eps=eps)
        made.facts.adversarial[:] = adversarial
        facts = replace(made.facts, target=np.full(len(adversarial), 2))
        return replace(made, facts=facts, stamp=replace(made.stamp, target="2"))

    def test_the_worst_case_is_the_share_that_any_led_there(self):
        both = [self.led("targeted:a@0.1", [2, 1, 0, 0]), self.led("targeted:b@0.1", [0, 0, 2, 0])]
        rows = {row["metric"]: row["value"] for row in audit.rows("x", both, eps=0.1)}
        assert rows["targeted@0.1"] == 0.5
        assert (rows["targeted:a@0.1"], rows["targeted:b@0.1"]) == (0.25, 0.25)
        assert not [metric for metric in rows if metric.startswith("robust")]
        verdict = audit.healthy(both, 0.1, 0.9)
        assert verdict.requirement == "images not led to their target at eps 0.1 at least 90.0%"
        assert verdict.found.startswith("50.0% ")

    def test_beside_attacks_without_one_they_do_not_count(self):
        both = [self.led("targeted:a@0.2", [2, 2], eps=0.2), measured("a@0.1", [1, 0])]
        assert audit.worst_case(both, 0.1) == Rate(1, 2)
        assert audit.curve(both) == {0.1: Rate(1, 2)}
        with pytest.raises(ValueError, match=r"eps=0.2: expected at least one attack"):
            audit.worst_case(both, 0.2)


class TestCurve:
    def test_it_never_rises_though_each_attack_may(self):
        sweep = [
            measured("a@0.1", [0, 1, 1, 1]),
            measured("a@0.2", [1, 0, 1, 1], eps=0.2),
            measured("b@0.2", [1, 1, 1, 1], eps=0.2),
            measured("a@0.3", [1, 1, 1, 0], eps=0.3),
        ]
        found = audit.curve(sweep)
        assert found == {0.1: Rate(3, 4), 0.2: Rate(2, 4), 0.3: Rate(1, 4)}

    def test_distances_and_radii_make_one_curve(self):
        both = [
            measured("fmn", [0, 0, 1], eps=INF, distance=[0.04, 0.15, 0]),
            measured("a@0.2", [1, 1, 0], eps=0.2),
        ]
        found = audit.curve(both, radii=(0.05, 0.1))
        assert found == {0.05: Rate(2, 3), 0.1: Rate(2, 3), 0.2: Rate(0, 3)}

    def test_radii_that_nobody_attacked_at_are_no_points(self):
        assert list(audit.curve([measured("a@0.2", [1, 0], eps=0.2)], radii=(0.1,))) == [0.2]

    def test_other_norms_transfer_and_noise_alone_give_no_point(self):
        others = [
            measured("a@0.1", [0], norm="l2"),
            measured("b@0.1", [0], aim="other"),
            measured("noise@0.1", [0], steps=0),
        ]
        assert audit.curve(others) == {}


class TestRows:
    def test_one_row_a_metric_counted_and_with_its_interval(self):
        rows = audit.rows("before", [measured("a@0.1", [1, 1, 0, 0])], eps=0.1)
        assert [(row["metric"], row["value"]) for row in rows] == [
            ("clean", 1.0),
            ("robust@0.1", 0.5),
            ("a@0.1", 0.5),
            ("loss", 0.5),
            ("loss:a@0.1", 1.5),
            ("passes:measuring", 12.0),
        ]
        assert {row["case"] for row in rows} == {"before"}
        assert {row["seed"] for row in rows} == {7}
        low, high = Rate(2, 4).interval
        assert (rows[1]["low"], rows[1]["high"], rows[1]["n"]) == (low, high, 4)

    def test_clean_accuracy_is_of_the_measurement_with_most_images(self):
        few = measured("b@0.1", [1], wrong=[0])
        rows = audit.rows("x", [few, measured("a@0.1", [1, 1, 1, 1], wrong=[0])])
        assert rows[0] == audit.rate_row("x", 7, "clean", Rate(3, 4))

    def test_without_a_radius_there_are_distances_and_a_rate_at_the_radius(self):
        free = measured("fmn", [0, 0, 0, 1], eps=INF, distance=[0.05, 0.2, 0.3, 0], wrong=[3])
        rows = audit.rows("x", [free], eps=0.1)
        assert [(row["metric"], row["value"]) for row in rows] == [
            ("clean", 0.75),
            ("robust@0.1", 0.5),
            ("fmn@0.1", 0.5),
            ("found:fmn", 1.0),
            ("median:linf", pytest.approx(0.2)),
            ("loss", 0.5),
            ("passes:measuring", 12.0),
        ]
        middle = rows[4]
        assert (middle["n"], middle["low"], middle["high"]) == pytest.approx((3, 0.05, 0.3))

    def test_a_median_that_was_not_found_has_no_row(self):
        free = measured("fmn", [0, 1], eps=INF, distance=[0.05, 0])
        values = {row["metric"]: row["value"] for row in audit.rows("x", [free])}
        assert values["found:fmn"] == 0.5
        assert [metric for metric in values if metric.startswith("median")] == []

    def test_several_have_the_nearest_of_all_and_their_own(self):
        both = [
            measured("fmn", [0, 0, 0], eps=INF, distance=[0.1, 0.4, 0.5]),
            measured("deepfool", [0, 0, 0], eps=INF, distance=[0.2, 0.3, 0.6]),
        ]
        values = {row["metric"]: row["value"] for row in audit.rows("x", both, eps=0.1)}
        assert values["median:linf"] == pytest.approx(0.3)
        assert values["median:fmn"] == pytest.approx(0.4)
        assert values["median:deepfool"] == pytest.approx(0.3)

    def test_one_that_was_held_to_the_ball_goes_before_its_distances(self):
        both = [measured("fmn@0.1", [0, 0]), measured("fmn", [0, 0], eps=INF, distance=[0.3, 0.3])]
        rows = [row for row in audit.rows("x", both, eps=0.1) if row["metric"] == "fmn@0.1"]
        assert [row["value"] for row in rows] == [0]

    def test_in_another_norm_the_worst_case_says_so(self):
        free = measured("fmn", [0, 0], norm="l2", eps=INF, distance=[0.5, 2.0])
        values = {r["metric"]: r["value"] for r in audit.rows("x", [free], eps=1.0, norm="l2")}
        assert (values["robust-l2@1"], values["fmn@1"]) == (0.5, 0.5)

    def test_the_radius_asked_for_comes_before_the_rest_of_the_curve(self):
        sweep = [measured(f"a@{eps}", [1, 0], eps=eps) for eps in (0.05, 0.1, 0.2)]
        names = [row["metric"] for row in audit.rows("x", sweep, eps=0.1)]
        assert names[1:4] == ["robust@0.1", "robust@0.05", "robust@0.2"]

    def test_a_search_by_scores_tells_what_it_reached_by_queries(self):
        scores = measured("square@0.1", [0, 0, 1, 0], steps=200, wrong=[3])
        scores.facts.backward[:] = 0
        scores.facts.forward[:] = [11, 12, 201, 1]
        rows = audit.rows("x", [scores])
        found = {
            row["metric"]: (row["value"], row["n"]) for row in rows if "success" in row["metric"]
        }
        assert found == {
            "success10:square@0.1": (pytest.approx(1 / 3), 3),
            "success100:square@0.1": (pytest.approx(2 / 3), 3),
        }

    def test_images_without_an_answer_are_left_out_of_the_mean_losses(self):
        silent = measured("a@0.1", [1, 1, 1, 1])
        silent.facts.adversarial[3] = -1
        values = {row["metric"]: row["value"] for row in audit.rows("x", [silent])}
        assert (values["loss:a@0.1"], values["a@0.1"]) == (1.0, 0.75)
        silent.facts.adversarial[:] = -1
        values = {row["metric"]: row["value"] for row in audit.rows("x", [silent])}
        assert values["loss:a@0.1"] == 0

    def test_they_make_a_valid_results_file(self):
        both = [measured("a@0.1", [1, 0]), measured("b@0.1", [1, 0])]
        verdict = {"sick": audit.healthy(both, 0.1)}
        warning = Warning("masked-gradients", "FGSM")
        table = audit.rows("before", both, eps=0.1)
        results = audit.results(NOTES, table, {"before": [warning], "after": []}, verdict)
        assert tables.validate(results) == table
        assert results["warnings"] == [{"case": "before", **warning.as_dict()}]
        assert results["verdict"]["sick"]["outcome"] == "undecided"
        assert "verdict" not in audit.results(NOTES, table, {})


class TestSandwich:
    """Fooled at 0.1 and at 0.3, not fooled, wrong from the start; positions 2, 4, 6, 8."""

    @pytest.fixture
    def attacked(self):
        distance = [0.1, 0.3, 0, 0]
        free = {"eps": INF, "distance": distance, "wrong": [3], "index": [2, 4, 6, 8]}
        return measured("fmn", [0, 0, 1, 0], **free)

    @pytest.mark.parametrize(
        ("certified", "images"),
        [
            ([0.0, 0.0, 0.0, 0.0], []),
            ([0.1, 0.3, 9.0, 0.0], []),
            ([0.11, 0.2, 0.0, 0.0], [2]),
            ([0.0, 0.31, 0.0, 0.01], [4, 8]),
            ([INF, INF, INF, INF], [2, 4, 8]),
        ],
    )
    def test_names_the_images_whose_certificate_does_not_hold(self, attacked, certified, images):
        assert audit.sandwich(attacked, np.array(certified), "linf").tolist() == images

    def test_a_certificate_of_a_linear_classifier_holds(self, linear, batch):
        x = 0.3 + 0.4 * batch[0]
        with torch.no_grad():
            logits, weight = linear(x), linear[1].weight.detach()
        y = logits.argmax(dim=1)
        gaps = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], INF)
        radius = (gaps / (weight[y][:, None] - weight).norm(dim=2)).amin(dim=1).double().numpy()
        images = ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve/test")
        found = measure(FMN(norm="l2"), linear, images, seed=0)
        assert audit.sandwich(found, 0.999 * radius, "l2").tolist() == []
        assert len(audit.sandwich(found, 1.2 * radius, "l2")) == 12

    @pytest.mark.parametrize(
        ("certified", "norm", "message"),
        [
            ([0.1] * 4, "l2", "norm='l2': expected 'linf', that of the attack"),
            ([0.1] * 3, "linf", r"certified of shape \(3,\): expected \(4,\), a radius an image"),
            ([0.1, -0.1, 0, 0], "linf", "certified: expected radii of at least 0"),
            ([0.1, float("nan"), 0, 0], "linf", "certified: expected radii of at least 0"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, attacked, certified, norm, message):
        with pytest.raises(ValueError, match=message):
            audit.sandwich(attacked, np.array(certified), norm)


@pytest.mark.parametrize(
    ("robust", "floor", "outcome"),
    [([1] * 60, 0.9, "met"), ([0] * 4, 0.9, "not met"), ([1] * 4, 0.9, "undecided")],
)
def test_healthy_is_decided_by_the_interval_not_by_the_value(robust, floor, outcome):
    verdict = audit.healthy([measured("a@0.1", robust)], 0.1, floor)
    assert verdict.outcome == outcome
    rate = Rate(sum(robust), len(robust))
    assert verdict == at_least("worst-case robust accuracy at eps 0.1", rate, floor)


class TestEvasion:
    def test_one_step_and_many_at_every_radius_what_sees_through_masks_and_noise(self):
        attacks = audit.evasion(0.1, (0.2,), steps=3, restarts=2, queries=7)
        assert attacks == [
            FGSM(eps=0.05),
            FGSM(eps=0.1),
            FGSM(eps=0.2),
            PGD(eps=0.05, steps=3),
            PGD(eps=0.1, steps=3, restarts=2),
            PGD(eps=0.2, steps=3),
            PGD(eps=1.0, steps=3),
            PGD(eps=0.1, steps=3, loss="margin"),
            Square(eps=0.1, steps=7),
            UniformNoise(eps=0.1, restarts=10),
        ]

    @pytest.mark.parametrize("eps", [0.0, 0.1, 1.0, 2.0])
    def test_no_attack_twice(self, eps):
        attacks = audit.evasion(eps, (eps, 0.05, 1.0))
        assert len(set(attacks)) == len(attacks)


def test_a_model_that_answers_at_random_is_suspect():
    class Dice(nn.Module):
        def forward(self, x):
            return torch.rand(len(x), 2)

    x = torch.zeros(4, 1, 2, 2)
    images = ImageSet(x, torch.arange(4) % 2, np.arange(4), ("a", "b"), "four/test")
    kinds = [w.kind for w in audit.suspicions(Dice(), images, [measured("a@0.1", [1, 0, 1, 0])])]
    assert "random-outputs" in kinds
