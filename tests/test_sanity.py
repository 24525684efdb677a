"""Every suspicion is raised by measurements made up to deserve it, and by no healthy ones."""

import math

import numpy as np
import pytest

from bezoar.referee import Measurement, Stamp
from bezoar.results import Facts
from bezoar.sanity import Warning, outdone, warnings

COUNT = 1000
LN_10 = math.log(10)


def measured(
    attack="fgsm",
    *,
    steps=1,
    eps=0.1,
    norm="linf",
    fooled=range(0),
    wrong=range(0),
    rescued=range(0),
    zero=0,
    loss=1.0,
    made_on="a" * 16,
    first=0,
    count=COUNT,
    data="toy/test",
    backward=1,
):
    """Facts of 1000 images of class 0, but for those fooled, wrong clean, or put right."""
    index = np.arange(first, first + count)
    clean = np.isin(index, list(wrong)).astype(np.int64)
    adversarial = (np.isin(index, list(fooled)) | (clean == 1)).astype(np.int64)
    adversarial[np.isin(index, list(rescued))] = 0
    facts = Facts(
        index=index,
        label=np.zeros(count, dtype=np.int64),
        clean=clean,
        adversarial=adversarial,
        clean_loss=np.full(count, 0.1, dtype=np.float32),
        loss=np.full(count, loss, dtype=np.float32),
        distance=np.full(count, eps, dtype=np.float32),
        first_success=np.full(count, -1),
        forward=np.ones(count, dtype=np.int64),
        backward=np.full(count, backward),
        zero_gradient=np.arange(count) < zero,
    )
    stamp = Stamp(
        metric=f"{attack}@{eps:g}",
        attack=attack,
        recipe=attack,
        norm=norm,
        eps=eps,
        steps=steps,
        data=data,
        seed=0,
        made_on=made_on,
        scored_on="a" * 16,
    )
    return Measurement(stamp, facts, np.zeros((count, 1, 1, 1), dtype=np.float32))


def kinds(*measurements, **found):
    return [warning.kind for warning in warnings(measurements, classes=10, **found)]


def noise(**facts):
    return measured("noise", steps=0, **facts)


def pgd(**facts):
    return measured("pgd40", steps=40, **facts)


def square(**facts):
    return measured("square5000", steps=5000, backward=0, **facts)


def test_a_healthy_classifier_is_not_accused():
    wrong = range(990, 1000)
    healthy = [
        noise(fooled=range(5), wrong=wrong),
        measured(eps=0.05, fooled=range(100), wrong=wrong),
        measured(eps=0.1, fooled=range(300), wrong=wrong),
        pgd(eps=0.05, fooled=range(150), wrong=wrong),
        pgd(eps=0.1, fooled=range(450), wrong=wrong),
        pgd(eps=1.0, fooled=range(1000), wrong=wrong),
        measured("pgd-l2-40", steps=40, eps=1.0, norm="l2", fooled=range(450), wrong=wrong),
    ]
    assert kinds(*healthy) == []


def test_nothing_measured_is_nothing_suspected():
    assert kinds() == []


class TestUniformOutput:
    @pytest.mark.parametrize("loss", [LN_10, 2.3045, LN_10 - 0.049, LN_10 + 0.049])
    def test_a_loss_near_ln_k_is_suspect(self, loss):
        assert kinds(measured(loss=loss)) == ["uniform-output"]

    @pytest.mark.parametrize("loss", [LN_10 - 0.051, LN_10 + 0.051, 0.53, 5.8])
    def test_one_farther_away_is_not(self, loss):
        assert kinds(measured(loss=loss)) == []

    def test_k_is_the_number_of_classes(self):
        assert kinds(measured(loss=math.log(3))) == []
        assert [w.kind for w in warnings([measured(loss=math.log(3))], classes=3)] == [
            "uniform-output"
        ]

    def test_a_mean_that_lies_there_by_chance_says_nothing(self):
        mixed = measured(loss=LN_10)
        mixed.facts.loss[::2] = 0.1
        mixed.facts.loss[1::2] = 2 * LN_10 - 0.1
        assert kinds(mixed) == []

    def test_the_loss_at_the_first_fooling_point_says_nothing(self):
        assert kinds(pgd(loss=LN_10)) == []


class TestMaskedGradients:
    @pytest.mark.parametrize(
        ("many", "found"), [(range(500), []), (range(501), ["masked-gradients"])]
    )
    def test_one_step_that_leaves_20_points_more_is_suspect(self, many, found):
        assert kinds(measured(fooled=range(300)), pgd(fooled=many)) == found

    @pytest.mark.parametrize(
        ("one", "found"),
        [(range(111), ["masked-gradients"]), (range(101), [])],
    )
    def test_one_step_that_fools_more_than_chance_is_suspect(self, one, found):
        # Of the images that only one of the two fools: 11 to 0 is no chance, 1 to 0 may be.
        assert kinds(measured(fooled=one), pgd(fooled=range(100))) == found

    def test_more_on_both_sides_is_chance(self):
        one, many = [*range(100), *range(200, 240)], [*range(100), *range(300, 330)]
        assert kinds(measured(fooled=one), pgd(fooled=many)) == []

    @pytest.mark.parametrize("other", [{"eps": 0.2}, {"norm": "l2"}, {"data": "toy/validation"}])
    def test_other_balls_and_other_images_are_not_compared(self, other):
        assert kinds(measured(), pgd(fooled=range(900), **other)) == []

    def test_many_steps_are_compared_with_one_and_not_with_fewer(self):
        few = measured("pgd10", steps=10, fooled=range(100))
        assert kinds(few, pgd(fooled=range(900))) == []

    def test_the_order_of_measurements_does_not_count(self):
        assert kinds(pgd(fooled=range(501)), measured(fooled=range(300))) == ["masked-gradients"]

    def test_the_images_that_both_attacked_are_compared(self):
        # On the first 200 both fool the same; the rate over all 1000 would accuse.
        assert kinds(measured(fooled=range(200)), pgd(fooled=range(200), count=200)) == []
        found = kinds(measured(fooled=range(100, 1000)), pgd(fooled=range(100), count=200))
        assert found == []
        assert kinds(measured(fooled=range(60)), pgd(fooled=range(40), count=200)) == [
            "masked-gradients"
        ]

    def test_images_that_have_none_in_common_are_not_compared(self):
        assert kinds(measured(), pgd(first=1000, fooled=range(1000, 2000))) == []


class TestNoiseStronger:
    @pytest.mark.parametrize("strong", [measured, pgd], ids=["one step", "many steps"])
    @pytest.mark.parametrize(
        ("weak", "found"), [(range(111), ["noise-stronger"]), (range(101), [])]
    )
    def test_noise_that_fools_more_than_an_attack_is_suspect(self, strong, weak, found):
        assert kinds(noise(fooled=weak), strong(fooled=range(100))) == found

    def test_noise_that_fools_less_is_not(self):
        assert kinds(noise(), pgd(fooled=range(1000))) == []


class TestNotFallingWithEps:
    @pytest.mark.parametrize(
        ("low", "found"), [(range(111), ["not-falling-with-eps"]), (range(101), [])]
    )
    def test_a_smaller_ball_that_fools_more_is_suspect(self, low, found):
        small, large = measured(eps=0.1, fooled=low), measured(eps=0.3, fooled=range(100))
        assert kinds(small, large) == found
        assert kinds(large, small) == found

    def test_two_attacks_are_not_compared(self):
        small = measured("fgsm", eps=0.1, fooled=range(200))
        assert kinds(small, measured("fgsm-rs", eps=0.3, fooled=range(100))) == []


class TestAboveClean:
    @pytest.mark.parametrize(("rescued", "found"), [(range(20), ["above-clean"]), (range(3), [])])
    def test_an_attack_that_puts_images_right_is_suspect(self, rescued, found):
        assert kinds(measured(wrong=range(100), rescued=rescued)) == found

    def test_not_where_it_puts_more_wrong(self):
        attack = measured(wrong=range(100), rescued=range(20), fooled=range(200, 300))
        assert kinds(attack) == []


class TestZeroGradients:
    @pytest.mark.parametrize(("zero", "found"), [(100, []), (101, ["zero-gradients"])])
    def test_more_than_a_tenth_of_the_images_without_gradient_is_suspect(self, zero, found):
        assert kinds(pgd(zero=zero)) == found


class TestSurvivesEps1:
    @pytest.mark.parametrize(
        ("standing", "found"), [(60, []), (70, ["survives-eps-1"]), (1000, ["survives-eps-1"])]
    )
    def test_images_that_stand_where_everything_is_allowed_are_suspect(self, standing, found):
        # 60 of 1000 is 6 %, its interval reaches down to 4.7 %.
        assert kinds(pgd(eps=1.0, fooled=range(1000 - standing))) == found

    @pytest.mark.parametrize("eps", [1.0, 2.0])
    def test_one_step_may_fail_there(self, eps):
        assert kinds(measured(eps=eps)) == []

    @pytest.mark.parametrize("ball", [{"eps": 0.99}, {"eps": 1.0, "norm": "l2"}])
    def test_a_ball_with_limits_may_be_withstood(self, ball):
        assert kinds(pgd(**ball)) == []


class TestTransfer:
    def test_images_made_on_other_weights_are_named(self):
        found = warnings([measured(made_on="b" * 16)], classes=10)
        assert [warning.kind for warning in found] == ["transfer-set"]
        assert f"made on weights {'b' * 16}, scored on {'a' * 16}" in found[0].text

    def test_and_left_out_of_all_comparisons(self):
        stale = measured(made_on="b" * 16, loss=LN_10, zero=1000)
        assert kinds(stale, pgd(fooled=range(900))) == ["transfer-set"]


def test_what_was_found_about_the_classifier_is_passed_on():
    assert kinds(random_outputs=True) == ["random-outputs"]
    assert kinds(neighbours_matter=True) == ["neighbours"]
    assert kinds(measured(), random_outputs=False, neighbours_matter=False) == []


class TestOutputs:
    @pytest.mark.parametrize(("change", "found"), [(1e-5, []), (2e-4, ["random-outputs"])])
    def test_that_change_from_pass_to_pass(self, change, found):
        assert kinds(random_outputs=change) == found

    @pytest.mark.parametrize(("change", "found"), [(1e-4, []), (2e-3, ["neighbours"])])
    def test_that_change_with_the_neighbours(self, change, found):
        assert kinds(neighbours_matter=change) == found

    def test_that_are_random_say_nothing_of_neighbours(self):
        assert kinds(random_outputs=0.3, neighbours_matter=0.3) == ["random-outputs"]

    @pytest.mark.parametrize(("far", "found"), [(1e-3, []), (1e-7, ["probabilities"])])
    def test_that_are_probabilities(self, far, found):
        assert kinds(probabilities=far) == found


def test_search_by_scores_is_no_yardstick_for_one_step():
    # It may well find what one step does not; what accuses is that it finds what many do not.
    assert kinds(measured(fooled=range(300)), square(fooled=range(900))) == []


def test_a_warning_gives_the_numbers_that_raise_it():
    (found,) = warnings([measured(fooled=range(300)), pgd(fooled=range(900))], classes=10)
    text = (
        "fgsm@0.1 leaves 70.0%, pgd40@0.1 leaves 10.0%: one step is misled; trust the lower number"
    )
    assert found == Warning("masked-gradients", text)
    assert found.as_dict() == {"kind": "masked-gradients", "text": text}


class TestScoresOnly:
    def test_that_fool_more_than_gradients_accuse_them(self):
        assert kinds(pgd(fooled=range(100)), square(fooled=range(130))) == ["masked-gradients"]

    def test_that_fool_fewer_or_hardly_more_do_not(self):
        assert kinds(pgd(fooled=range(100)), square(fooled=range(90))) == []
        assert kinds(pgd(fooled=range(100)), square(fooled=range(104))) == []

    def test_in_another_ball_they_say_nothing(self):
        assert kinds(pgd(fooled=range(100)), square(eps=0.2, fooled=range(130))) == []

    @pytest.mark.parametrize("weak", [square, measured])
    def test_an_attack_made_to_transfer_is_no_yardstick(self, weak):
        transfer = measured("ti-fgsm10", steps=10, fooled=range(60))
        strong = pgd(fooled=range(120))
        assert kinds(transfer, strong, weak(fooled=range(100))) == []
        assert kinds(transfer, strong, weak(fooled=range(160))) == ["masked-gradients"]


class TestNotFinite:
    def test_images_without_an_answer_are_named(self):
        silent = pgd()
        silent.facts.adversarial[[3, 17]] = -1
        silent.facts.clean[17] = -1
        (found,) = [w for w in warnings([silent], classes=10) if w.kind == "not-finite"]
        assert found.as_dict() == {
            "kind": "not-finite",
            "text": "pgd40@0.1: output that is not finite on 2 images: 3, 17",
            "images": [3, 17],
        }

    def test_of_many_the_text_names_the_first_and_the_list_all(self):
        silent = pgd()
        silent.facts.adversarial[:40] = -1
        (found,) = [w for w in warnings([silent], classes=10) if w.kind == "not-finite"]
        assert found.text.endswith("on 40 images: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...")
        assert found.as_dict()["images"] == list(range(40))


class TestOtherNetworks:
    OTHER = "b" * 16

    def outdone(self, own, count, **about):
        found = outdone(own, [pgd(fooled=range(count), made_on=self.OTHER, **about)])
        return [warning.kind for warning in found]

    def test_images_of_another_network_that_fool_more_accuse_the_gradients(self):
        assert self.outdone([pgd(fooled=range(100))], 130) == ["masked-gradients"]

    def test_images_that_fool_fewer_or_hardly_more_do_not(self):
        assert self.outdone([pgd(fooled=range(100))], 90) == []
        assert self.outdone([pgd(fooled=range(100))], 104) == []

    def test_one_stronger_attack_on_the_network_itself_clears_them(self):
        own = [pgd(fooled=range(100)), measured("apgd50", steps=50, fooled=range(300))]
        assert self.outdone(own, 130) == []

    def test_there_has_to_be_one_along_gradients_in_the_same_ball(self):
        assert self.outdone([pgd(fooled=range(10), eps=0.2)], 130) == []
        assert self.outdone([square(fooled=range(10)), noise()], 130) == []
