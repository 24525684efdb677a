import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.attacks import LBFGS, Targeted, Untargeted
from bezoar.attacks.engine import perturb, shrink
from bezoar.attacks.lbfgs import reluctance
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l2_distance
from bezoar.seeds import Noise, generator

NOISE = Noise.first(0, "tests", np.arange(8))
WEIGHT = torch.tensor([1.0, -2.0, 2.0, 4.0], dtype=torch.float64)


@pytest.fixture
def two():
    """Class 0 leads by w . x - 1, and |w| = 5."""
    layer = nn.Linear(4, 2).double()
    layer.weight.data = torch.stack([WEIGHT, torch.zeros(4)]).double()
    layer.bias.data = torch.tensor([-1.0, 0.0]).double()
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


@pytest.fixture
def grey():
    rng = generator(0, "tests", "lbfgs")
    x = 0.5 + 0.1 * torch.rand(8, 4, generator=rng).double()
    return x.reshape(8, 1, 2, 2)


ZEROS = torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize("goal", [Untargeted(ZEROS), Targeted(ZEROS + 1)], ids=repr)
@pytest.mark.parametrize("c", [0.05, 0.5])
def test_of_an_affine_classifier_the_change_obeys_the_equation_of_the_minimum(goal, c, two, grey):
    # Along -w / 5 by t: the derivative of t^2 + c log(1 + exp(m - 5 t)) vanishes.
    attack = LBFGS(steps=1, c=c)
    oracle = Answers(two, attack, grey, goal)
    x_adv = attack.step(attack.start(grey, oracle, NOISE), oracle).x_adv
    t = l2_distance(x_adv, grey)
    torch.testing.assert_close(
        (x_adv - grey).flatten(1), -t[:, None] * WEIGHT / 5, atol=1e-4, rtol=1e-3
    )
    lead = two(x_adv)[:, 0] - two(x_adv)[:, 1]
    torch.testing.assert_close(2 * t, 5 * c * torch.sigmoid(lead), atol=1e-4, rtol=1e-3)


def test_in_the_box_the_pixels_stop_at_its_ends(two, grey):
    attack = LBFGS(steps=1, c=1000.0)
    oracle = Answers(two, attack, grey, Untargeted(ZEROS))
    x_adv = attack.step(attack.start(grey, oracle, NOISE), oracle).x_adv
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert (x_adv.flatten(1)[:, 3] == 0).all()


def test_c_grows_tenfold_until_it_fools_and_is_halved_in_from_then_on(two, grey):
    attack = LBFGS(c=1e-3)
    oracle = Answers(two, attack, grey[:1], Untargeted(ZEROS[:1]))
    state = attack.start(grey[:1], oracle, NOISE)
    tried, fooled = [], []
    for _ in range(7):
        tried.append(state.c.item())
        state = attack.step(state, oracle)
        fooled.append(bool(two(state.x_adv).argmax(dim=1) != 0))
    assert fooled[:4] == [False, False, False, True]
    assert tried[:5] == pytest.approx([0.001, 0.01, 0.1, 1.0, 0.55])
    assert tried[5] == pytest.approx({True: 0.325, False: 0.775}[fooled[4]])
    assert max(c for c, f in zip(tried, fooled, strict=True) if not f) == state.low.item()
    assert min(c for c, f in zip(tried, fooled, strict=True) if f) == state.high.item()


def test_more_values_of_c_are_never_worse(convnet, batch):
    x = batch[0][:4]
    goal = Untargeted(convnet(x).argmax(dim=1))
    last = torch.full((4,), torch.inf)
    for steps in (1, 3, 6):
        attack = LBFGS(steps=steps, c=0.1)
        found = shrink(attack, convnet.requires_grad_(False), x, goal, NOISE)
        distance = l2_distance(found.x_adv, x)
        distance[found.first_success < 0] = torch.inf
        assert (distance <= last).all()
        last = distance
    assert (last < torch.inf).all()


def test_an_image_that_fools_already_stays(blocks, images):
    found = perturb(LBFGS(steps=2), blocks, images, Untargeted(ZEROS), NOISE)
    assert torch.equal(found.x_adv, images)


def test_one_iteration_costs_a_few_passes(blocks, images):
    one = perturb(LBFGS(steps=1, iterations=1), blocks, images, Untargeted(ZEROS + 1), NOISE)
    many = perturb(
        LBFGS(steps=1, iterations=9, c=1.0), blocks, images, Untargeted(ZEROS + 1), NOISE
    )
    assert torch.equal(one.forward, one.backward + 2)  # the minimiser and the last point
    assert torch.equal(many.forward, many.backward + 2)
    assert (one.backward < many.backward).all()


class TestReluctance:
    Z = torch.randn(6, 4, generator=generator(0, "tests", "reluctance"))
    AIM = torch.tensor([0, 1, 2, 3, 0, 1])

    def test_is_minus_the_log_probability_of_the_goal(self):
        of_class = self.Z.softmax(dim=1).gather(1, self.AIM[:, None]).squeeze(1)
        away, towards = (reluctance(self.Z, goal(self.AIM)) for goal in (Untargeted, Targeted))
        torch.testing.assert_close(away, -(1 - of_class).log())
        torch.testing.assert_close(towards, -of_class.log())

    def test_tells_of_a_class_that_is_certain(self):
        certain = torch.tensor([[90.0, 0.0, -5.0]], requires_grad=True)
        value = reluctance(certain, Untargeted(torch.tensor([0])))
        (slope,) = torch.autograd.grad(value.sum(), certain)
        assert value.item() == pytest.approx(90, abs=0.01)
        torch.testing.assert_close(slope[0, :2], torch.tensor([1.0, -1.0]), atol=0.01, rtol=0)

    def test_of_two_classes_it_is_the_cross_entropy_of_the_other(self):
        pair = self.Z[:, :2]
        aim = self.AIM % 2
        torch.testing.assert_close(
            reluctance(pair, Untargeted(aim)), F.cross_entropy(pair, 1 - aim, reduction="none")
        )


@pytest.mark.parametrize("field", ["steps", "iterations"])
def test_refuses_a_number_that_is_none(field):
    with pytest.raises(ValueError, match=f"{field}=0: expected an integer >= 1"):
        LBFGS(**{field: 0})
