import math

import pytest
import torch

from bezoar.classifier import prepare
from bezoar.models import Certainty, Constancy, Sureness
from bezoar.seeds import generator

PARTS = [Certainty(), Constancy()]


def logits(*probabilities):
    """Logits ``(1, V, K)`` of the probabilities of V answers."""
    return torch.tensor([probabilities]).log()


def drawn(scale):
    return scale * torch.randn(6, 4, 5, generator=generator(0, "tests", "answers"))


def test_certainty_lies_between_knowing_nothing_and_knowing_all():
    sure = torch.tensor([[[99.0, 0, 0, 0], [0, 99.0, 0, 0]]])
    answers = torch.cat([torch.zeros(1, 2, 4), sure])
    torch.testing.assert_close(Certainty()(answers), torch.tensor([0.0, math.log(4)]))


def test_certainty_is_the_mean_over_the_answers():
    # ln 2 - H(1/4, 3/4) = 0.75 ln 3 - ln 2, and 0 of the other answer.
    found = Certainty()(logits((0.25, 0.75), (0.5, 0.5))).item()
    assert found == pytest.approx((0.75 * math.log(3) - math.log(2)) / 2, abs=1e-6)


def test_sureness_is_that_of_the_further_answers_in_the_class_of_the_first():
    found = Sureness()(logits((0.1, 0.9), (0.4, 0.6), (0.8, 0.2)))
    torch.testing.assert_close(found, torch.tensor([-math.log(1 - 0.4)]))


def test_sureness_tells_apart_what_is_surer_than_a_float_can_say_and_has_a_slope_there():
    answers = torch.zeros(3, 3, 4)
    answers[:, :, 0] = torch.tensor([0.0, 100.0, 200.0])[:, None]
    answers.requires_grad_()
    found = Sureness()(answers)
    # Three other classes of one: the doubt is 3 exp(-z) / (1 + 3 exp(-z)).
    wanted = torch.tensor([-math.log(0.75), 100 - math.log(3), 200 - math.log(3)])
    torch.testing.assert_close(found, wanted)
    assert gradient(found, answers).all()


def test_constancy_counts_the_further_answers_of_the_class_of_the_first():
    found = Constancy()(logits((0.1, 0.9), (0.4, 0.6), (0.8, 0.2), (0.3, 0.7)))
    torch.testing.assert_close(found, torch.tensor([2 / 3]))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
def test_a_sure_network_leaves_an_attacker_a_slope_in_the_surrogate_alone(part):
    answers = drawn(1e6).requires_grad_()
    exact = part(answers)
    slope = torch.zeros(6) if not exact.requires_grad else gradient(exact, answers)
    assert not slope.any()
    assert gradient(part.surrogate(answers), answers).all()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
def test_the_copy_that_is_attacked_has_the_number_itself_and_the_slope_of_the_surrogate(part):
    answers = drawn(1e6).requires_grad_()
    found = prepare(part)(answers)
    assert torch.equal(found, part(answers))
    slope, wanted = (gradient(score, answers) for score in (found, part.surrogate(answers)))
    assert torch.equal(slope, wanted)


def gradient(score, answers):
    (found,) = torch.autograd.grad(score.sum(), answers)
    return found.flatten(1).abs().amax(dim=1)


def test_where_no_answer_is_sure_the_surrogate_is_the_number_itself():
    answers, part = drawn(0.3), Certainty()
    torch.testing.assert_close(part.surrogate(answers), part(answers))


def test_the_surrogate_of_a_count_is_the_mean_probability():
    answers = drawn(0.3)
    mean = 1 - (-Sureness()(answers)).exp()
    torch.testing.assert_close(Constancy().surrogate(answers), mean)
