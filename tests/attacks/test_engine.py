"""The loop: which images it asks about, how often, and that batches change nothing."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import FGSM, PGD, PGDL2, Targeted, UniformNoise, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.oracle import Answers
from bezoar.attacks.protocol import Attack, Ball
from bezoar.seeds import Noise

COUNT = 23
STEP = 0.01


class Watched(nn.Module):
    """Says class 0 while the second pixel is below its bound; notes all it is asked about.

    The first pixel has no weight, so no gradient moves it: it is the name of the image.
    """

    def __init__(self, bound):
        super().__init__()
        self.bound, self.batches = bound, []

    def forward(self, x):
        self.batches.append(x.detach().flatten(1).clone())
        margin = self.bound - x.flatten(1)[:, 1]
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)

    @property
    def passes(self):
        return sum(len(batch) for batch in self.batches)

    def visits(self, name):
        """Second pixels of one image at each time it was asked about."""
        asked = torch.cat(self.batches)
        return asked[asked[:, 0] == name, 1]


def images(gaps, bound=0.9):
    """Images named 0, 1/64, 2/64 ... whose second pixel is ``gaps`` below the bound."""
    names = torch.arange(len(gaps)) / 64
    x = torch.stack([names, bound - torch.tensor(gaps)], dim=1)
    return x.reshape(-1, 1, 1, 2)


def noise_of(count, seed=0):
    return Noise.first(seed, "tests", np.arange(count))


def zeros(count):
    return Untargeted(torch.zeros(count, dtype=torch.int64))


# In steps of 0.01 the k-th image falls at step k; from 7 steps on they stand.
GAPS = [-0.005, 0.005, 0.015, 0.025, 0.035, 0.045, 0.055, 0.065]
WALK = PGD(eps=0.5, steps=5, step_size=STEP, random_start=False)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 100])
class TestSearch:
    @pytest.fixture
    def case(self, batch):
        model = Watched(0.9)
        found = search(WALK, model, images(GAPS), zeros(8), noise_of(8), batch=batch)
        return SimpleNamespace(model=model, found=found)

    def test_says_at_which_step_an_image_was_first_fooled(self, case):
        assert case.found.first_success.tolist() == [0, 1, 2, 3, 4, 5, -1, -1]

    def test_counts_every_pass_and_no_other(self, case):
        # Fooled at step k: k + 1 points were asked about; the last point needs no gradient.
        assert case.found.forward.tolist() == [1, 2, 3, 4, 5, 6, 6, 6]
        assert case.found.backward.tolist() == [1, 2, 3, 4, 5, 5, 5, 5]
        assert case.model.passes == 33

    def test_asks_about_no_image_after_it_was_fooled(self, case):
        visits = [case.model.visits(k / 64) for k in range(8)]
        assert [len(points) for points in visits] == case.found.forward.tolist()
        assert [bool((points > 0.9).any()) for points in visits] == [True] * 6 + [False] * 2
        assert all((points[:-1] < 0.9).all() for points in visits)

    def test_hands_back_the_first_point_that_fooled_and_else_the_last(self, case):
        steps = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5])
        expected = images(GAPS).flatten(1)
        expected[:, 1] += STEP * steps
        torch.testing.assert_close(case.found.x_adv.flatten(1), expected)

    def test_never_takes_more_than_a_batch(self, case, batch):
        assert max(len(asked) for asked in case.model.batches) <= batch


def test_the_batch_is_kept_full():
    model = Watched(0.9)
    found = search(WALK, model, images([-0.1, 1.0] * 20), zeros(40), noise_of(40), batch=8)
    assert found.forward.sum() == model.passes == 20 * 1 + 20 * 6
    # At 8 a pass, 140 image passes need 18; a vacancy of a quarter is left before it is filled.
    assert len(model.batches) <= 25


@pytest.mark.parametrize("batch", [1, 3, 64])
class TestRestarts:
    def test_only_what_still_stands_starts_again(self, batch):
        attack = PGD(eps=0.5, steps=2, step_size=STEP, random_start=False, restarts=3)
        model = Watched(0.9)
        x = images([-0.005, 0.005, 0.015, 0.5])
        found = search(attack, model, x, zeros(4), noise_of(4), batch=batch)
        assert found.forward.tolist() == [1, 2, 3, 9]
        assert found.backward.tolist() == [1, 2, 2, 6]
        assert found.first_success.tolist() == [0, 1, 2, -1]
        assert model.passes == 15

    def test_restart_r_uses_draw_r(self, batch):
        model = Watched(9.0)
        x = images([8.5] * 5, bound=9.0)
        noise = Noise(0, "tests", np.arange(5), np.array([0, 0, 3, 0, 0]))
        attack = UniformNoise(eps=0.25, restarts=4)
        found = search(attack, model, x, zeros(5), noise, batch=batch)
        assert found.forward.tolist() == [4] * 5
        asked = torch.cat(model.batches)
        draws = [Noise(0, "tests", np.array([2]), np.array([3 + r])) for r in range(4)]
        points = [(x[2] + 0.25 * draw.uniform((1, 1, 2)))[0].flatten() for draw in draws]
        expected = torch.stack(points).clamp(0, 1)
        seen = [(asked == point).all(dim=1).nonzero().flatten().tolist() for point in expected]
        assert [len(places) for places in seen] == [1, 1, 1, 1]
        assert seen == sorted(seen)

    def test_an_image_is_fooled_at_the_step_counted_over_all_starts(self, batch):
        # Only draws 2 and up can fool: where the second pixel starts above its bound.
        noise = noise_of(40)
        draws = [noise.take(np.arange(40), np.full(40, r)).uniform((1, 1, 2)) for r in range(3)]
        x = images([0.1] * 40, bound=0.6)
        above = torch.stack([(x + 0.2 * draw).flatten(1)[:, 1] > 0.6 for draw in draws])
        first = torch.where(above.any(dim=0), above.int().argmax(dim=0), -1)
        attack = PGD(eps=0.2, steps=4, step_size=0, restarts=3)
        found = search(attack, Watched(0.6), x, zeros(40), noise, batch=batch)
        expected = torch.where(first >= 0, 4 * first, -1)
        # A point that fools at the start of restart r + 1 carries the number of the last of r.
        assert torch.equal(found.first_success, expected)
        assert set(found.first_success.tolist()) == {-1, 0, 4, 8}

    def test_an_image_that_no_start_fools_keeps_the_last_point_of_its_last_start(self, batch):
        x = images([8.5] * 5, bound=9.0)
        attack = PGD(eps=0.1, steps=2, step_size=0, restarts=3)
        found = search(attack, Watched(9.0), x, zeros(5), noise_of(5), batch=batch)
        last = noise_of(5).take(np.arange(5), np.full(5, 2)).uniform((1, 1, 2))
        torch.testing.assert_close(found.x_adv, (x + 0.1 * last).clamp(0, 1))


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.15, steps=6, restarts=2), PGDL2(eps=0.5, steps=6, restarts=2), FGSM(eps=0.03)],
    ids=repr,
)
@pytest.mark.parametrize("size", [1, 4, 7])
def test_refilling_changes_no_result(attack, size, convnet):
    x = torch.rand(COUNT, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    goal = Untargeted(convnet(x).argmax(dim=1).detach())
    convnet.requires_grad_(False)
    whole = search(attack, convnet, x, goal, noise_of(COUNT), batch=128)
    packed = search(attack, convnet, x, goal, noise_of(COUNT), batch=size)
    torch.testing.assert_close(packed.x_adv, whole.x_adv, atol=1e-6, rtol=0)
    assert torch.equal(packed.first_success, whole.first_success)
    assert torch.equal(packed.forward, whole.forward)
    assert torch.equal(packed.backward, whole.backward)
    assert 0 < (whole.first_success >= 0).sum() < COUNT


class TestPerturb:
    def test_takes_all_steps_whether_an_image_is_fooled_or_not(self):
        model = Watched(0.9)
        found = perturb(WALK, model, images(GAPS), zeros(8), noise_of(8), batch=3)
        expected = images(GAPS).flatten(1)
        expected[:, 1] += 5 * STEP
        torch.testing.assert_close(found.x_adv.flatten(1), expected)
        assert found.forward.tolist() == found.backward.tolist() == [5] * 8
        assert model.passes == 40

    def test_does_not_say_what_was_fooled(self):
        found = perturb(WALK, Watched(0.9), images(GAPS), zeros(8), noise_of(8))
        assert found.first_success.tolist() == [-1] * 8

    def test_uses_one_start_whatever_the_restarts(self):
        attack = PGD(eps=0.1, steps=2, step_size=0, restarts=3)
        found = perturb(attack, Watched(0.9), images(GAPS), zeros(8), noise_of(8))
        first = noise_of(8).uniform((1, 1, 2))
        torch.testing.assert_close(found.x_adv, (images(GAPS) + 0.1 * first).clamp(0, 1))
        assert found.forward.tolist() == [2] * 8

    def test_an_attack_without_steps_costs_no_pass(self):
        model = Watched(0.9)
        found = perturb(UniformNoise(), model, images(GAPS), zeros(8), noise_of(8))
        assert found.forward.tolist() == found.backward.tolist() == [0] * 8
        assert model.passes == 0


class TestWithoutSteps:
    def test_search_judges_each_draw_and_asks_for_no_gradient(self):
        model = Watched(0.5)
        x = images([-0.2] * 2 + [0.2] * 3, 0.5)
        attack = UniformNoise(eps=0.01, restarts=2)
        found = search(attack, model, x, zeros(5), noise_of(5), batch=2)
        assert found.forward.tolist() == [1, 1, 2, 2, 2]
        assert found.backward.tolist() == [0] * 5
        assert found.first_success.tolist() == [0, 0, -1, -1, -1]
        assert not found.zero_gradient.any()
        assert model.passes == 8


@pytest.mark.parametrize("engine", [perturb, search])
def test_a_zero_gradient_is_noted_image_by_image_at_the_first_point(engine):
    class Flat(nn.Module):
        """Flat where the second pixel is below one half, and from 0.6 on."""

        def forward(self, x):
            height = x.flatten(1)[:, 1].clamp(0.5, 0.6)
            return torch.stack([-height, torch.zeros_like(height) - 9], dim=1)

    x = images([0.8, 0.35, 0.8, 0.2], bound=0.9)
    found = engine(WALK, Flat(), x, zeros(4), noise_of(4), batch=2)
    assert found.zero_gradient.tolist() == [True, False, True, True]
    # With a random start and several, the first point is that of draw 0.
    attack = PGD(eps=0.2, steps=2, step_size=0, restarts=3)
    x = images([0.4] * 20, bound=0.9)
    found = engine(attack, Flat(), x, zeros(20), noise_of(20), batch=3)
    start = (x + 0.2 * noise_of(20).uniform((1, 1, 2))).flatten(1)[:, 1]
    assert torch.equal(found.zero_gradient, (start < 0.5) | (start > 0.6))


@pytest.mark.parametrize("size", [1, 2, 128])
def test_no_images_need_no_pass(size, convnet):
    found = search(PGD(), convnet, torch.zeros(0, 1, 4, 5), zeros(0), noise_of(0), batch=size)
    assert found.x_adv.shape == (0, 1, 4, 5)


class TestOracle:
    def test_sums_the_loss_so_that_neighbours_do_not_count(self, convnet, batch):
        x, y = batch
        _, whole = Answers(convnet, PGD(), x, Untargeted(y)).gradient(x, cross_entropy)
        one = Answers(convnet, PGD(), x[3:4], Untargeted(y[3:4]))
        _, alone = one.gradient(x[3:4], cross_entropy)
        torch.testing.assert_close(whole[3:4], alone)

    def test_works_where_gradients_are_switched_off(self, convnet, batch):
        x, y = batch
        with torch.no_grad():
            _, gradient = Answers(convnet, PGD(), x, Untargeted(y)).gradient(x, cross_entropy)
        assert gradient.abs().sum() > 0
        assert not x.requires_grad

    def test_keeps_the_first_of_several_points_that_fooled(self):
        oracle = Answers(Watched(0.7), PGD(eps=1), images([0.1] * 3, 0.7), zeros(3))
        points = [
            images(gaps, 0.7) for gaps in ([0.1, -0.1, 0.1], [-0.2, -0.2, 0.1], [0.1, 0.1, 0.1])
        ]
        for point in points:
            oracle.gradient(point, cross_entropy)
        assert oracle.forward.tolist() == oracle.backward.tolist() == [3, 3, 3]
        assert oracle.reached.tolist() == [True, True, False]
        torch.testing.assert_close(
            oracle.fooling, torch.stack([points[1][0], points[0][1], points[0][2]])
        )

    def test_keeps_nothing_where_nothing_is_wanted(self):
        x = images([0.1] * 3, 0.7)
        oracle = Answers(Watched(0.7), PGD(eps=1), x, zeros(3), keep="none")
        oracle.logits(images([0.1, -0.1, 0.1], 0.7))
        assert oracle.fooled.tolist() == [False, True, False]
        assert not oracle.reached.any()
        assert torch.equal(oracle.fooling, x)
        assert oracle.forward.tolist() == [1, 1, 1]

    def test_counts_no_point_outside_the_ball(self):
        oracle = Answers(Watched(0.9), PGD(eps=0.08), images([0.05] * 4), zeros(4))
        oracle.logits(images([-0.02, -0.04, 0.01, -0.2]))  # 0.07, 0.09, 0.04 and 0.25 away
        assert oracle.reached.tolist() == [True, False, False, False]

    def test_counts_no_point_outside_the_box(self):
        x = images([0.05] * 2)
        oracle = Answers(Watched(0.9), PGD(eps=0.2), x, zeros(2))
        oracle.logits(x + torch.tensor([[0.0, 0.1], [0.0, 0.151]]).reshape(2, 1, 1, 2))
        assert oracle.reached.tolist() == [True, False]

    def test_logits_cost_a_forward_pass_and_no_gradient(self, convnet, batch):
        x, y = batch
        oracle = Answers(convnet, PGD(), x, Untargeted(y))
        assert torch.equal(oracle.logits(x), convnet(x))
        assert oracle.forward.tolist() == [1] * len(x)
        assert oracle.backward.tolist() == [0] * len(x)
        assert oracle.zero is None

    def test_a_decision_is_whether_the_goal_is_reached(self):
        oracle = Answers(Watched(0.7), PGD(eps=1), images([0.1] * 3, 0.7), zeros(3))
        assert oracle.decide(images([0.1, -0.1, 0.1], 0.7)).tolist() == [False, True, False]
        assert oracle.forward.tolist() == [1, 1, 1]


class TestOracleOfSome:
    """Five points: two of image 1, three of image 0; image 2 is not asked about."""

    ROWS = torch.tensor([1, 0, 0, 1, 0])
    GAPS = (0.01, -0.04, -0.02, -0.03, -0.02)

    def asked(self, *, keep, eps=1.0):
        # Named by their order, so that the name is a change of at most 4 / 64 as well.
        whole = Answers(Watched(0.7), PGDL2(eps=eps), images([0.1] * 3, 0.7), zeros(3), keep=keep)
        part = whole.of(self.ROWS)
        return whole, part, part.logits(images(self.GAPS, 0.7))

    def test_answers_for_every_point(self):
        _, part, logits = self.asked(keep="first")
        assert torch.equal(logits, Watched(0.7)(images(self.GAPS, 0.7)))
        assert part.fooled.tolist() == [False, True, True, True, True]

    def test_counts_the_passes_for_the_images(self):
        whole, part, _ = self.asked(keep="first")
        part.gradient(images(self.GAPS, 0.7), cross_entropy)
        assert whole.forward.tolist() == [6, 4, 0]
        assert whole.backward.tolist() == [3, 2, 0]

    def test_keeps_the_first_of_several_points_of_an_image(self):
        whole, _, _ = self.asked(keep="first")
        assert whole.reached.tolist() == [True, True, False]
        points = images(self.GAPS, 0.7)
        assert torch.equal(whole.fooling[:2], points[[1, 3]])
        again = whole.of(torch.tensor([0]))
        again.logits(points[2:3])
        assert torch.equal(whole.fooling[:2], points[[1, 3]])

    def test_or_the_nearest_where_that_is_asked_for(self):
        whole, _, _ = self.asked(keep="nearest")
        points = images(self.GAPS, 0.7)
        assert torch.equal(whole.fooling[:2], points[[2, 3]])
        farther, nearer = images([-0.09], 0.7), images([-0.001], 0.7)
        whole.of(torch.tensor([0])).logits(farther)
        assert torch.equal(whole.fooling[0], points[2])
        whole.of(torch.tensor([0])).logits(nearer)
        assert torch.equal(whole.fooling[0], nearer[0])

    def test_counts_no_point_outside_the_ball(self):
        whole, _, _ = self.asked(keep="first", eps=0.13)
        assert whole.reached.tolist() == [True, False, False]

    def test_asks_about_some_of_some(self):
        whole, part, _ = self.asked(keep="first")
        part.of(torch.tensor([3, 4, 4])).decide(images([0.1] * 3, 0.7))
        assert whole.forward.tolist() == [5, 3, 0]

    def test_leads_to_where_each_image_is_to_go(self):
        goal = Targeted(torch.tensor([0, 1, 0]))
        whole = Answers(Watched(0.7), PGD(eps=1), images([0.1] * 3, 0.7), goal)
        asked = whole.of(torch.tensor([1, 1, 2]))
        assert asked.goal.aim.tolist() == [1, 1, 0]
        assert asked.decide(images([0.1, -0.1, 0.1], 0.7)).tolist() == [False, True, True]

    def test_says_where_the_gradient_is_zero(self):
        whole = Answers(Watched(0.7), PGD(eps=1), images([0.1] * 3, 0.7), zeros(3))
        whole.of(torch.tensor([2, 0])).gradient(
            images([0.1, 0.1], 0.7), lambda logits, goal: logits[:, 0] * torch.tensor([0.0, 1.0])
        )
        assert whole.zero.tolist() == [False, False, True]


class TestGoals:
    LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])

    def test_untargeted_is_reached_anywhere_but_at_the_true_class(self):
        goal = Untargeted(torch.tensor([0, 0]))
        assert goal.reached(self.LOGITS).tolist() == [False, True]
        expected = nn.functional.cross_entropy(self.LOGITS[1:], torch.tensor([0]))
        torch.testing.assert_close(cross_entropy(self.LOGITS, goal)[1], expected)

    def test_targeted_is_reached_at_the_target_only_and_ascends_towards_it(self):
        goal = Targeted(torch.tensor([1, 2]))
        assert goal.reached(self.LOGITS).tolist() == [False, True]
        expected = -nn.functional.cross_entropy(self.LOGITS[:1], torch.tensor([1]))
        torch.testing.assert_close(cross_entropy(self.LOGITS, goal)[0], expected)

    @pytest.mark.parametrize("kind", [Untargeted, Targeted])
    def test_taking_rows_keeps_each_image_its_own_goal(self, kind):
        goal = kind(torch.tensor([2, 0])).take(torch.tensor([1, 0, 1]))
        assert goal.reached(self.LOGITS[[1, 1, 0]]).tolist() == (
            kind(torch.tensor([0, 2, 0])).reached(self.LOGITS[[1, 1, 0]]).tolist()
        )

    def test_a_targeted_search_counts_success_at_the_target_only(self, convnet, batch):
        x, _ = batch
        target = torch.full((12,), 2)
        found = search(PGD(eps=0.9, steps=20), convnet, x, Targeted(target), noise_of(12))
        reached = convnet(found.x_adv).argmax(dim=1) == 2
        assert torch.equal(found.first_success >= 0, reached)
        assert reached.any()


@dataclass(frozen=True, kw_only=True)
class Broken(Attack):
    """An attack of one faulty part, for what the engine must not take on trust."""

    asks: bool = True
    crops: bool = False
    eps: float = 0.1
    steps: int = 2
    norm: str = field(default="linf", init=False)
    restarts: int = field(default=1, init=False)

    def start(self, x, oracle, noise):
        return Ball(x, x)

    def step(self, state, oracle):
        if self.asks:
            oracle.logits(state.x_adv)
        return state

    def best(self, state):
        return state.x[..., :1] if self.crops else state.x


def test_a_step_that_asks_nothing_is_an_error_and_no_endless_search():
    with pytest.raises(RuntimeError, match=r"Broken\(.*\): expected step to ask the oracle"):
        search(Broken(asks=False), Watched(0.9), images(GAPS), zeros(8), noise_of(8))


def test_points_of_another_shape_are_not_spread_over_the_images():
    with pytest.raises(ValueError, match=r"x_adv of shape \(7, 1, 1, 1\): expected \(7, 1, 1, 2\)"):
        search(Broken(crops=True, steps=1), Watched(0.9), images(GAPS), zeros(8), noise_of(8))


class Offset(nn.Module):
    """Class 1 leads by what the first pixel has more than 1/2; both logits are about 5."""

    def forward(self, x):
        five = torch.full((len(x),), 5.0)
        return torch.stack([five, five + (x.flatten(1)[:, 0] - 0.5)], dim=1)


@pytest.mark.parametrize(("lead", "counts"), [(2e-6, False), (1e-3, True)])
def test_the_nearest_image_leads_by_more_than_rounding(lead, counts):
    x = torch.full((1, 1, 1, 2), 0.4)
    oracle = Answers(Offset(), PGDL2(eps=1.0), x, zeros(1), keep="nearest")
    assert oracle.decide(torch.full((1, 1, 1, 2), 0.5 + lead)).tolist() == [True]
    assert oracle.reached.tolist() == [counts]
