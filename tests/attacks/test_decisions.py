"""The attacks that see decisions only: that they do, and how near they come on a plane."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch import nn

from bezoar.attacks import Boundary, GeoDA, HopSkipJump, SignOPT, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search, shrink
from bezoar.attacks.geoda import cosines
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES
from bezoar.seeds import Noise, hashed, hashed_normal

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))
ALL = [
    HopSkipJump(steps=20),
    HopSkipJump(norm="linf", steps=20),
    Boundary(steps=350),
    GeoDA(steps=5),
    GeoDA(norm="linf", steps=3),
    SignOPT(steps=4, samples=100),
]
NEAR = {HopSkipJump: 1.05, Boundary: 1.05, GeoDA: 1.05, SignOPT: 1.05}


@pytest.fixture
def plane(blocks):
    """Classes 0 and 1 of the blocks alone: one border, so that no start leads to another."""
    layer = nn.Linear(12, 2, bias=False)
    layer.weight.data = blocks[1].weight[:2].clone()
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


@pytest.fixture
def least(plane, images):
    """By norm, the exact distance of each image to the border; the box cuts nothing off."""
    towards = plane[1].weight[0] - plane[1].weight[1]
    gap = plane(images) @ torch.tensor([-1.0, 1.0])
    return {"linf": gap / towards.abs().sum(), "l2": gap / towards.norm()}


@pytest.fixture
def sure():
    """Says class 1 of every image."""
    layer = nn.Linear(12, 3)
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor([0.0, 1.0, 0.0])
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


class DecisionsOnly:
    """An oracle that has no logits, no gradient, not even a goal to look at."""

    def __init__(self, answers):
        self._answers = answers

    def decide(self, x):
        return self._answers.decide(x)

    def of(self, rows):
        return DecisionsOnly(self._answers.of(rows))


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_comes_near_the_nearest_image_beyond_a_plane(attack, plane, images, least):
    found = shrink(attack, plane, images, ONES, NOISE)
    assert (plane(found.x_adv).argmax(dim=1) == 0).all()
    assert ((found.x_adv >= 0) & (found.x_adv <= 1)).all()
    assert found.backward.tolist() == [0] * 8
    ratio = DISTANCES[attack.norm](found.x_adv, images) / least[attack.norm]
    assert 1 - 1e-5 <= ratio.min() <= ratio.max() <= NEAR[type(attack)]


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_in_a_ball_it_finds_what_lies_in_it(attack, plane, images, least):
    eps = NEAR[type(attack)] * least[attack.norm][3].item()
    found = search(replace(attack, eps=eps), plane, images, ONES, NOISE)
    assert (found.first_success >= 0).tolist() == [True] * 4 + [False] * 4
    assert (DISTANCES[attack.norm](found.x_adv, images) <= eps + 1e-6).all()


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_asks_for_decisions_only(attack, plane, images):
    attack = replace(attack, steps=3)
    answers = Answers(plane, attack, images, ONES, keep="nearest")
    oracle = DecisionsOnly(answers)
    state = attack.start(images, oracle, NOISE)
    for _ in range(attack.steps):
        state = attack.step(state, oracle)
    assert answers.reached.all()
    assert (plane(attack.best(state)).argmax(dim=1) == 0).all()


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_more_steps_are_never_farther(attack, convnet, batch):
    x, _ = batch
    goal = Untargeted(convnet(x).argmax(dim=1))
    convnet.requires_grad_(False)
    noise = Noise.first(0, "tests", np.arange(12))
    last = torch.full((12,), torch.inf)
    for steps in (1, 3):
        found = shrink(replace(attack, steps=steps), convnet, x, goal, noise)
        distance = DISTANCES[attack.norm](found.x_adv, x)
        distance[found.first_success < 0] = torch.inf
        assert (distance <= last + 1e-6).all()
        last = distance
    assert (last < torch.inf).any()


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_more_starts_are_never_farther(attack, blocks, images):
    # Three classes: a start may lead to the farther border.
    one = replace(attack, steps=4)
    runs = [shrink(replace(one, restarts=count), blocks, images, ONES, NOISE) for count in (1, 3)]
    far = torch.stack([DISTANCES[attack.norm](run.x_adv, images) for run in runs])
    assert (far.diff(dim=0) <= 1e-6).all()
    assert (runs[1].forward > runs[0].forward).all()


@pytest.mark.parametrize("attack", ALL, ids=repr)
@pytest.mark.parametrize("engine", [perturb, search])
def test_an_image_without_a_start_is_not_found_and_costs_little(attack, engine, sure, images):
    attack = replace(attack, steps=4, draws=6)
    found = engine(attack, sure, images, ONES, NOISE)
    assert torch.equal(found.x_adv, images)
    assert found.first_success.tolist() == [-1] * 8
    assert found.forward.tolist() == [1 + 6 + 4 + 1] * 8


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_towards_a_class_it_ends_there(attack, blocks, images):
    goal = Targeted(torch.full((8,), 2))
    found = shrink(replace(attack, steps=5), blocks, images, goal, NOISE)
    assert (blocks(found.x_adv).argmax(dim=1) == 2).all()


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_an_image_that_fools_already_stays(attack, plane, images):
    goal = Untargeted(torch.zeros(8, dtype=torch.int64))
    found = shrink(replace(attack, steps=3), plane, images, goal, NOISE)
    assert torch.equal(found.x_adv, images)
    assert found.first_success.tolist() == [0] * 8


class TestHopSkipJump:
    @pytest.mark.parametrize(("norm", "theta"), [("l2", 0.01), ("linf", 12**-2)])
    def test_costs_what_it_says(self, norm, theta, plane, images):
        attack = HopSkipJump(norm=norm, samples=10)
        oracle = Answers(plane, attack, images, ONES)
        halvings = int(np.ceil(np.log2(1 / theta)))
        state = attack.start(images, oracle, NOISE)
        before = oracle.forward.clone()
        assert (before >= 1 + 1 + halvings).all()
        for t in range(1, 5):
            state = attack.step(state, oracle)
            spent = oracle.forward - before
            trials = spent - int(10 * t**0.5) - halvings
            assert (trials >= 1).all()
            assert (trials <= 20).all()
            before = oracle.forward.clone()

    @pytest.mark.parametrize(("norm", "theta"), [("l2", 0.01), ("linf", 12**-2)])
    @pytest.mark.parametrize("age", [0, 3])
    def test_steps_as_the_paper_says_image_by_image(self, norm, theta, age, plane, images):
        attack = HopSkipJump(norm=norm, samples=30)
        oracle = Answers(plane, attack, images, ONES)
        begun = attack.start(images, oracle, NOISE)._replace(age=torch.full((8,), age))
        after = attack.step(begun, oracle)
        weight = (plane[1].weight[0] - plane[1].weight[1]).double().reshape(1, 3, 4)
        size = {"l2": torch.linalg.vector_norm, "linf": lambda change: change.abs().max()}[norm]
        between = {
            "l2": lambda there, x, share: x + share * (there - x),
            "linf": lambda there, x, share: (
                x + (there - x).clamp(-share * size(there - x), share * size(there - x))
            ),
        }[norm]
        for i in (0, 3, 6):
            x, x_adv = images[i].double(), begun.x_adv[i].double()
            draws = begun.drawn[i] + torch.arange(int(30 * (age + 1) ** 0.5))
            u = hashed_normal(begun.key[i].expand(len(draws)), draws, (1, 3, 4)).double()
            u = u / u.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            delta = 12 ** {"l2": 0.5, "linf": 1}[norm] * theta * size(x_adv - x)
            points = (x_adv + delta * u).clamp(0, 1)
            phi = 2.0 * ((weight * points).flatten(1).sum(dim=1) > 0) - 1
            v = ((phi - phi.mean()).reshape(-1, 1, 1, 1) * (points - x_adv)).sum(dim=0)
            v = {"l2": v / v.norm(), "linf": v.sign()}[norm]
            length = size(x_adv - x) / (age + 1) ** 0.5
            while (weight * (there := (x_adv + length * v).clamp(0, 1))).sum() <= 0:
                length = length / 2
            low, high = 0.0, 1.0
            while high - low > theta:
                middle = (low + high) / 2
                fools = (weight * between(there, x, middle)).sum() > 0
                low, high = (low, middle) if fools else (middle, high)
            expected = between(there, x, high).float()
            torch.testing.assert_close(after.x_adv[i], expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        ("norm", "size", "theta"),
        [
            ("l2", 784, 784**-1.5),
            ("linf", 784, 784**-2),
            ("linf", 3072, 2**-20),
            ("l2", 4, 0.01),
        ],
    )
    def test_theta_follows_the_size_of_the_image(self, norm, size, theta):
        assert HopSkipJump(norm=norm)._theta(size) == pytest.approx(theta)


class TestBoundary:
    def test_walks_as_the_paper_says_image_by_image(self, plane, images):
        attack = Boundary(steps=40)
        oracle = Answers(plane, attack, images, ONES)
        state = begun = attack.start(images, oracle, NOISE)
        for _ in range(attack.steps):
            state = attack.step(state, oracle)
        weight = (plane[1].weight[0] - plane[1].weight[1]).double().reshape(1, 3, 4)
        for i in (0, 3, 7):
            x, x_adv = images[i].double(), begun.x_adv[i].double()
            delta = epsilon = 0.1
            for t in range(attack.steps):
                eta = hashed_normal(begun.key[i : i + 1], begun.drawn[i : i + 1] + t, (1, 3, 4))[0]
                eta, ray, far = eta.double(), x_adv - x, (x_adv - x).norm()
                eta = eta - (eta * ray).sum() * ray / far**2
                aside = x_adv + delta * far * eta / eta.norm() - x
                sphere = x + far * aside / aside.norm()
                whole = (x + (1 - epsilon) * (sphere - x)).clamp(0, 1)
                around = bool((weight * sphere.clamp(0, 1)).sum() > 0)
                there = around and bool((weight * whole).sum() > 0)
                x_adv = whole if there else x_adv
                delta = min(delta * (1.1 if around else 1 / 1.1), 1)
                epsilon = min(epsilon * [1, [1 / 1.1, 1.1**3][there]][around], 0.5)
            torch.testing.assert_close(state.x_adv[i].double(), x_adv, atol=1e-4, rtol=0)
            assert state.around[i].item() == pytest.approx(delta, rel=1e-4)
            assert state.nearer[i].item() == pytest.approx(epsilon, rel=1e-4)

    def test_asks_twice_where_the_first_point_fools(self, plane, images):
        attack = Boundary()
        oracle = Answers(plane, attack, images, ONES)
        state = attack.start(images, oracle, NOISE)
        for _ in range(30):
            before = oracle.forward.clone()
            after = attack.step(state, oracle)
            grew = (after.around > state.around) | (after.around == 1)
            assert torch.equal(oracle.forward - before, 1 + grew.long())
            state = after

    def test_every_step_taken_leads_nearer(self, plane, images):
        attack = Boundary()
        oracle = Answers(plane, attack, images, ONES)
        state = attack.start(images, oracle, NOISE)
        for _ in range(60):
            after = attack.step(state, oracle)
            far = [DISTANCES["l2"](s.x_adv, images) for s in (state, after)]
            moved = (after.x_adv != state.x_adv).flatten(1).any(dim=1)
            assert torch.equal(moved, far[1] < far[0])
            assert (plane(after.x_adv).argmax(dim=1) == 0).all()
            state = after


class TestGeoDA:
    @pytest.mark.parametrize(("norm", "width"), [("l2", 0.01), ("linf", 0.01 / 12**0.5)])
    def test_costs_what_it_says(self, norm, width, plane, images):
        attack = GeoDA(norm=norm, samples=10, rate=0.5, sigma=0.08)
        oracle = Answers(plane, attack, images, ONES)
        state = attack.start(images, oracle, NOISE)
        before = oracle.forward.clone()
        for t in range(4):
            far = DISTANCES[norm](state.x_adv, images)
            state = attack.step(state, oracle)
            beyond = oracle.forward - before - int(10 * 2 ** (2 * t / 3))
            # At its own distance or at a doubled one it fools, and the search begins there.
            least, most = (
                (far * k / width).log2().ceil().clamp(min=0) + p for k, p in ((0.9, 1), (32, 6))
            )
            assert (beyond >= least).all()
            assert (beyond <= most).all()
            before = oracle.forward.clone()

    def test_a_step_ends_on_the_way_along_the_estimated_normal(self, plane, images):
        attack = GeoDA(norm="linf", samples=500)
        oracle = Answers(plane, attack, images, ONES)
        state = attack.step(attack.start(images, oracle, NOISE), oracle)
        towards = (plane[1].weight[0] - plane[1].weight[1]).reshape(1, 3, 4).sign()
        change = state.x_adv - images
        radius = change.flatten(1).abs().amax(dim=1)
        along = radius[:, None, None, None] * towards
        # Class 2 has the last row for itself: no decision depends on it.
        torch.testing.assert_close(change[:, :, :2], along[:, :, :2], atol=1e-6, rtol=0)

    def test_stays_where_it_is_when_the_normal_leads_past_the_border(self, images):
        class Island(nn.Module):
            """Says class 0 around one point only."""

            def forward(self, x):
                inside = (x - 0.3).flatten(1).norm(dim=1) < 0.05
                return torch.stack([inside, ~inside], dim=1).float()

        attack = GeoDA()
        oracle = Answers(Island(), attack, images, ONES)
        state = attack.start(images, oracle, NOISE)  # no random image is on the island
        assert torch.equal(state.x_adv, images)
        after = attack.step(state._replace(x_adv=torch.full_like(images, 0.3)), oracle)
        assert ((after.x_adv - 0.3).flatten(1).norm(dim=1) < 0.05).all()

    def test_the_cosines_are_the_orthonormal_transform(self):
        full = cosines(7, 7)
        torch.testing.assert_close(full @ full.T, torch.eye(7, dtype=torch.float64))
        expected = torch.from_numpy(dct(np.eye(7), norm="ortho", axis=0))
        torch.testing.assert_close(full, expected)
        assert torch.equal(cosines(7, 3), full[:3])
        assert torch.equal(cosines(7, 99), full)

    def test_smooth_noise_holds_low_frequencies_only(self):
        u = torch.randn(5, 3, 6, 8, generator=torch.Generator().manual_seed(0))
        smooth = GeoDA(frequencies=2)._smooth(u)
        spectrum = dct(dct(smooth.numpy(), norm="ortho", axis=2), norm="ortho", axis=3)
        assert abs(spectrum[:, :, :2, :2]).min() > 0
        spectrum[:, :, :2, :2] = 0
        np.testing.assert_allclose(spectrum, 0, atol=1e-6)
        torch.testing.assert_close(smooth.flatten(1).norm(dim=1), torch.ones(5))
        every = GeoDA(frequencies=8)._smooth(u)
        torch.testing.assert_close(every, u / u.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))

    def test_smooth_noise_finds_a_smooth_border_sooner(self):
        layer = nn.Linear(256, 2)
        ramp = torch.linspace(-1, 1, 16).repeat(16)
        layer.weight.data = torch.stack([ramp, -ramp])
        layer.bias.data = torch.tensor([-3.0, 3.0])
        model = nn.Sequential(nn.Flatten(), layer).requires_grad_(False)
        x = torch.full((8, 1, 16, 16), 0.5)
        far = [
            DISTANCES["l2"](shrink(attack, model, x, ONES, NOISE).x_adv, x).mean()
            for attack in (GeoDA(steps=1, frequencies=2), GeoDA(steps=1))
        ]
        assert far[0] < 0.8 * far[1]


class TestSignOPT:
    def test_starts_at_the_best_of_its_random_directions(self, plane, images):
        attack = SignOPT(draws=60)
        oracle = Answers(plane, attack, images, ONES)
        state = attack.start(images, oracle, NOISE)
        towards = (plane[1].weight[0] - plane[1].weight[1]).reshape(1, 3, 4)
        gap = plane(images) @ torch.tensor([-1.0, 1.0])
        drawn = torch.stack(
            [hashed(state.key, torch.full_like(state.key, k), (1, 3, 4)) for k in range(60)]
        )
        way = drawn - images
        gain = (way * towards).flatten(2).sum(dim=2)
        border = torch.where(gain > gap, gap / gain * way.flatten(2).norm(dim=2), torch.inf)
        expected = border.amin(dim=0)
        far = DISTANCES["l2"](attack.best(state), images)
        torch.testing.assert_close(far, expected, rtol=1e-3, atol=0)

    def test_never_goes_farther_and_always_fools(self, plane, images):
        attack = SignOPT(samples=20)
        oracle = Answers(plane, attack, images, ONES)
        states = [attack.start(images, oracle, NOISE)]
        for _ in range(6):
            states.append(attack.step(states[-1], oracle))
            assert (plane(attack.best(states[-1])).argmax(dim=1) == 0).all()
        far = torch.stack([state.far for state in states])
        assert (far.diff(dim=0) <= 0).all()
        assert (far[-1] < far[0]).all()

    def test_the_signs_are_those_of_the_change_of_the_distance(self, plane, images):
        # On a plane with normal n, g of a direction t is gap / (n . t): its gradient is along n.
        attack = SignOPT(samples=4000, steps=1)
        oracle = Answers(plane, attack, images, ONES)
        begun = attack.start(images, oracle, NOISE)
        after = attack.step(begun, oracle)
        normal = nn.functional.normalize(plane[1].weight[0] - plane[1].weight[1], dim=0)
        before, turned = (
            nn.functional.normalize(state.theta.flatten(1), dim=1) for state in (begun, after)
        )
        # The plane in which the direction turns holds the normal.
        across = nn.functional.normalize(
            turned - (turned * before).sum(dim=1, keepdim=True) * before, dim=1
        )
        upright = nn.functional.normalize(normal - (before @ normal)[:, None] * before, dim=1)
        assert (across * upright).sum(dim=1).min() > 0.98

    def test_alpha_is_doubled_while_it_helps_and_else_divided_by_4(self, plane, images):
        attack = SignOPT(samples=50)
        oracle = Answers(plane, attack, images, ONES)
        states = [attack.start(images, oracle, NOISE)]
        for _ in range(12):
            states.append(attack.step(states[-1], oracle))
        alpha = torch.stack([state.alpha for state in states])
        far = torch.stack([state.far for state in states])
        power = (alpha[1:] / alpha[:-1]).log2()
        moved = far.diff(dim=0) < 0
        assert torch.equal(power, power.round())
        assert (power[moved] != 0).all()
        assert (power > 0).any()
        assert (power == -2).any()

    def test_costs_what_it_says(self, plane, images):
        attack = SignOPT(samples=20, spread=0.5)
        oracle = Answers(plane, attack, images, ONES)
        state = attack.start(images, oracle, NOISE)
        search = int(np.ceil(np.log2(8 * 12**0.5 / 0.5)))
        before, seen = oracle.forward.clone(), []
        for _ in range(8):
            after = attack.step(state, oracle)
            spent = oracle.forward - before - 20
            # One length for a doubling and the one that failed; one for a division by 4.
            power = (after.alpha / state.alpha).log2()
            grew = power > 0
            assert torch.equal(spent[grew], (power[grew] * (1 + search) + 1).long())
            fell = (power < 0) & (after.far < state.far)
            assert torch.equal(spent[fell], (1 - power[fell] / 2 + search).long())
            seen += [grew.any(), fell.any()]
            state, before = after, oracle.forward.clone()
        assert any(seen[::2])
        assert any(seen[1::2])

    def test_pixels_at_the_end_of_the_box_do_not_hold_it_back(self):
        # Half of the pixels are at 0 and would have to go below it; the others have room.
        slopes = torch.linspace(-1, 1, 64)
        x = torch.full((8, 1, 8, 8), 0.05)
        x[:, :, :4] = 0
        layer = nn.Linear(64, 2)
        layer.weight.data = torch.stack([slopes, 0 * slopes])
        layer.bias.data = torch.stack([-0.4 - x[0].flatten() @ slopes, torch.zeros(())])
        model = nn.Sequential(nn.Flatten(), layer).requires_grad_(False)
        found = shrink(SignOPT(steps=12, samples=100), model, x, ONES, NOISE)
        nearest = 0.4 / slopes.clamp(min=0).norm()
        far = DISTANCES["l2"](found.x_adv, x)
        assert (far >= nearest * (1 - 1e-5)).all()
        assert far.median() < 1.1 * nearest
