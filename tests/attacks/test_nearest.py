"""The attacks that look for the nearest fooling image, where it is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import (
    CWL2,
    DDN,
    EAD,
    FAB,
    FMN,
    LBFGS,
    CWLinf,
    DeepFool,
    FABTargeted,
    SigmaZero,
    Targeted,
    Untargeted,
)
from bezoar.attacks.engine import perturb, search, shrink
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES, norms_l0, shorten_l0, shorten_l1, shorten_l2, shorten_linf
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))
ALL = [
    DeepFool(),
    DeepFool(norm="linf"),
    DDN(),
    FMN(norm="linf"),
    FMN(norm="l2"),
    FMN(norm="l1", steps=300),
    FMN(norm="l0"),
    CWL2(steps=1800, searches=9, c=0.1),
    LBFGS(steps=10, c=0.1),
    FAB(steps=20),
    FAB(norm="l2", steps=20),
    FABTargeted(steps=20),
    FABTargeted(norm="l2", steps=20),
    SigmaZero(steps=100),
    EAD(steps=900, beta=0.01, c=0.1),
]
# Weaker: what it may change freely shrinks by tenths, so the last tenth is left to chance.
WEAKER = [CWLinf(steps=500, iterations=50)]


def cheapest_l1(weight, need, x):
    """Least sum of changes that gains ``need`` in the box: the heaviest pixels go first."""
    total = 0.0
    room = torch.where(weight > 0, 1 - x, x)
    for pixel in weight.abs().argsort(descending=True):
        change = min(room[pixel].item(), need / weight[pixel].abs().item())
        total += change
        need -= change * weight[pixel].abs().item()
        if need <= 1e-9:
            return total
    raise AssertionError("the box holds no such image")


def fewest(weight, need, x):
    """Least number of values that gain ``need`` when they go to the ends of the box."""
    room = torch.where(weight > 0, 1 - x, x)
    gains = (weight.abs() * room).sort(descending=True).values.cumsum(dim=0)
    return int((gains <= need).sum()) + 1


@pytest.fixture
def least(blocks, images):
    """By norm, the exact distance of each image of class 1 to its nearest other class."""
    weight = blocks[1].weight
    logits, flat = blocks(images), images.flatten(1)
    others = [weight[k] - weight[1] for k in (0, 2)]
    margins = [logits[:, 1] - logits[:, k] for k in (0, 2)]
    pairs = list(zip(others, margins, strict=True))
    l1 = [
        min(cheapest_l1(w, margin[i].item(), flat[i]) for w, margin in pairs)
        for i in range(len(images))
    ]
    l0 = [
        min(fewest(w, margin[i].item(), flat[i]) for w, margin in pairs) for i in range(len(images))
    ]
    return {
        "linf": torch.stack([margin / w.abs().sum() for w, margin in pairs]).amin(dim=0),
        "l2": torch.stack([margin / w.norm() for w, margin in pairs]).amin(dim=0),
        "l1": torch.tensor(l1),
        "l0": torch.tensor(l0, dtype=torch.float32),
    }


@pytest.mark.parametrize(
    ("attack", "bound"), [(a, 1.05) for a in ALL] + [(a, 1.25) for a in WEAKER], ids=repr
)
def test_is_near_the_nearest_image_of_an_affine_classifier(attack, bound, blocks, images, least):
    run = shrink if attack.refines else search
    x_adv = run(attack, blocks, images, ONES, NOISE).x_adv
    assert (blocks(x_adv).argmax(dim=1) != 1).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    ratio = DISTANCES[attack.norm](x_adv, images) / least[attack.norm]
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() <= bound


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_the_one_line_call_gives_the_nearest_image_too(attack, blocks, images, least):
    x_adv = attack(blocks, images, ONES.aim)
    ratio = DISTANCES[attack.norm](x_adv, images) / least[attack.norm]
    assert 1 - 1e-5 <= ratio.min() <= ratio.max() <= 1.05


@pytest.mark.parametrize(
    "attack",
    [
        DDN(),
        FMN(),
        FMN(norm="l2"),
        FMN(norm="l0"),
        CWL2(steps=1800),
        LBFGS(),
        SigmaZero(steps=100),
        EAD(steps=900),
        CWLinf(steps=500),
    ],
    ids=repr,
)
def test_towards_a_class_it_ends_there(attack, blocks, images):
    goal = Targeted(torch.full((8,), 2))
    x_adv = shrink(attack, blocks, images, goal, NOISE).x_adv
    assert (blocks(x_adv).argmax(dim=1) == 2).all()


def test_deepfool_refuses_a_goal_that_is_one_class(blocks, images):
    with pytest.raises(ValueError, match="targeted goal: expected one that leads away"):
        search(DeepFool(), blocks, images, Targeted(ONES.aim), NOISE)


def test_deepfool_needs_one_step_where_the_border_is_a_plane(blocks, images):
    found = search(DeepFool(), blocks, images, ONES, NOISE)
    assert found.first_success.tolist() == [1] * 8  # seen when the second step asks
    # The classes are chosen once; each step is a forward pass and one backward pass a class.
    assert found.forward.tolist() == [3] * 8
    assert found.backward.tolist() == [6] * 8


def test_in_l0_the_ball_is_whole_and_never_rests(blocks, images):
    attack = FMN(norm="l0", steps=20)
    oracle = Answers(blocks, attack, images, ONES, keep="nearest")
    states = [attack.start(images, oracle, NOISE)]
    for _ in range(20):
        states.append(attack.step(states[-1], oracle))
    radius = torch.stack([state.radius for state in states])
    assert (radius[1] == 1).all()
    assert torch.equal(radius, radius.round())
    assert (radius.diff(dim=0).abs() >= 1).all()
    for state in states:
        assert (norms_l0(state.x_adv - images) <= state.radius).all()


class TestShrink:
    def test_keeps_the_nearest_of_all_that_was_asked(self, blocks, images):
        oracle = Answers(blocks, FMN(), images, ONES, keep="nearest")
        towards = blocks[1].weight[0] - blocks[1].weight[1]
        step = towards.sign().reshape(1, 3, 4)
        for size in (0.3, 0.19, 0.25, 0.1):
            oracle.logits((images + size * step).clamp(0, 1))
        nearest = DISTANCES["linf"](oracle.fooling, images)
        torch.testing.assert_close(nearest, torch.tensor([0.1] * 4 + [0.19] * 4))
        assert oracle.reached.all()

    def test_hands_back_the_clean_image_where_nothing_fools(self, images):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        nn.init.zeros_(flat[1].weight)
        flat[1].bias.data = torch.tensor([0.0, 1.0, 0.0])
        found = shrink(FMN(steps=5), flat.requires_grad_(False), images, ONES, NOISE)
        assert torch.equal(found.x_adv, images)
        assert found.first_success.tolist() == [-1] * 8
        assert found.zero_gradient.all()

    def test_counts_all_steps_and_the_last_point(self, blocks, images):
        found = shrink(FMN(steps=7), blocks, images, ONES, NOISE, batch=3)
        assert found.forward.tolist() == [8] * 8
        assert found.backward.tolist() == [7] * 8

    def test_says_when_an_image_was_first_fooled(self, blocks, images):
        found = shrink(FMN(steps=7), blocks, images, ONES, NOISE)
        # The radius is right at once, the direction soon after; it is seen when the next step asks.
        assert found.first_success.min() == 1
        assert found.first_success.max() <= 3

    def test_more_steps_are_never_worse(self, convnet, batch):
        x, _ = batch
        y = convnet(x).argmax(dim=1)
        convnet.requires_grad_(False)
        noise = Noise.first(0, "tests", np.arange(12))
        last = torch.full((12,), torch.inf)
        for searches in (1, 2, 4):
            attack = CWL2(steps=30 * searches, searches=searches, lr=0.1, c=10.0)
            found = shrink(attack, convnet, x, Untargeted(y), noise)
            distance = DISTANCES["l2"](found.x_adv, x)
            distance[found.first_success < 0] = torch.inf
            assert (distance <= last + 1e-6).all()
            last = distance

    def test_perturb_is_its_first_start(self, blocks, images):
        attack = FABTargeted(steps=5, restarts=2)
        one = perturb(attack, blocks, images, ONES, NOISE)
        assert torch.equal(one.x_adv, shrink(attack, blocks, images, ONES, NOISE, starts=1).x_adv)
        assert (shrink(attack, blocks, images, ONES, NOISE).forward > one.forward).all()


@pytest.mark.parametrize(
    ("attack", "share"),
    [(a, share) for a in ALL for share in (0.9, 1.1)]
    + [(a, share) for a in WEAKER for share in (0.9, 1.3)],
    ids=repr,
)
def test_in_a_ball_it_finds_what_lies_in_it(attack, share, blocks, images, least):
    eps = share * least[attack.norm][3].item()
    found = search(replace(attack, eps=eps), blocks, images, ONES, NOISE)
    inside = least[attack.norm] < eps
    assert torch.equal(found.first_success >= 0, inside)
    assert (DISTANCES[attack.norm](found.x_adv, images) <= eps + 1e-6).all()


class TestShorten:
    CHANGE = torch.randn(20, 2, 3, 4, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize(
        ("shorten", "norm"), [(shorten_linf, "linf"), (shorten_l2, "l2"), (shorten_l1, "l1")]
    )
    @pytest.mark.parametrize("radius", [0.0, 0.3, 2.0, 1e9])
    def test_gives_the_nearest_change_in_the_ball(self, shorten, norm, radius):
        radii = torch.full((20, 1, 1, 1), radius)
        found = shorten(self.CHANGE, radii)
        zero = torch.zeros_like(found)
        assert (DISTANCES[norm](found, zero) <= radius * (1 + 1e-5) + 1e-6).all()
        inside = DISTANCES[norm](self.CHANGE, zero) <= radius
        torch.testing.assert_close(found[inside], self.CHANGE[inside])
        # No other point of the ball is nearer: none on the way to any of many others.
        rng = torch.Generator().manual_seed(1)
        for _ in range(30):
            other = shorten(torch.randn(found.shape, generator=rng), radii)
            between = 0.99 * found + 0.01 * other
            assert (
                DISTANCES["l2"](between, self.CHANGE) >= DISTANCES["l2"](found, self.CHANGE) - 1e-5
            ).all()

    @pytest.mark.parametrize("count", [0, 1, 5, 24, 99])
    def test_l0_keeps_so_many_of_the_largest(self, count):
        found = shorten_l0(self.CHANGE, torch.full((20, 1, 1, 1), float(count)))
        kept = found != 0
        assert (norms_l0(found) == min(count, 24)).all()
        assert torch.equal(found[kept], self.CHANGE[kept])
        size = self.CHANGE.abs()
        smallest_kept = torch.where(kept, size, torch.inf).flatten(1).amin(dim=1)
        assert (torch.where(kept, 0, size).flatten(1).amax(dim=1) <= smallest_kept).all()

    def test_l0_keeps_the_first_of_equals(self):
        found = shorten_l0(torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0))
        assert found.flatten().tolist() == [1.0, 1.0, 1.0, 0.0]

    def test_l1_keeps_the_largest_entries(self):
        change = torch.tensor([3.0, -2.0, 0.5, 1.0]).reshape(1, 1, 2, 2)
        found = shorten_l1(change, torch.full((1, 1, 1, 1), 3.0))
        assert found.flatten().tolist() == [2.0, -1.0, 0.0, 0.0]
