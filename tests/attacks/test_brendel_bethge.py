import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from bezoar.attacks import BrendelBethge, Targeted, Untargeted
from bezoar.attacks.brendel_bethge import PULLS, nearest_in_reach
from bezoar.attacks.engine import shrink
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES, l2_distance, wide
from bezoar.seeds import Noise, generator

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))
CASES, SIZE = 12, 6


def drawn(name, *shape):
    return torch.rand(*shape, generator=generator(0, "tests", "border", name)).double()


@pytest.fixture(scope="module")
def problem():
    """Images, points some way off, and planes that pass near these in a ball that is tight."""
    x, here = drawn("x", CASES, 1, 2, 3), drawn("here", CASES, 1, 2, 3)
    normal = drawn("normal", CASES, 1, 2, 3) - 0.5
    lacking = 0.1 * (drawn("lacking", CASES) - 0.5)
    radius = wide(0.1 + 0.5 * drawn("radius", CASES))
    return here, x, normal, lacking, radius


def by_scipy(norm, here, x, normal, lacking, radius):
    """The least distance of one image, with bounds t on the changes where the norm has corners."""
    here, x, normal = (t.flatten().numpy() for t in (here, x, normal))
    corners = {"l2": 0, "linf": 1, "l1": SIZE}[norm]

    def slack(v):
        change = here + v[:SIZE] - x
        return np.concatenate([v[SIZE:] - change, v[SIZE:] + change])

    found = minimize(
        lambda v: v[SIZE:].sum() if corners else np.square(here + v - x).sum(),
        np.concatenate([np.zeros(SIZE), np.ones(corners)]),
        method="SLSQP",
        bounds=[*zip(-here, 1 - here, strict=True), *[(0, 1)] * corners],
        constraints=[
            {"type": "eq", "fun": lambda v: normal @ v[:SIZE] - lacking.item()},
            {"type": "ineq", "fun": lambda v: radius.item() ** 2 - v[:SIZE] @ v[:SIZE]},
            *[{"type": "ineq", "fun": slack}] * bool(corners),
        ],
        options={"maxiter": 500, "ftol": 1e-9},
    )
    assert found.success
    return found.fun if corners else found.fun**0.5


@pytest.mark.parametrize("norm", PULLS)
def test_a_step_solves_the_problem_of_the_paper(norm, problem):
    here, x, normal, lacking, radius = problem
    point = nearest_in_reach(*problem, PULLS[norm])
    assert ((point >= 0) & (point <= 1)).all()
    assert (l2_distance(point, here) <= radius.flatten() * (1 + 1e-9)).all()
    torch.testing.assert_close((normal * (point - here)).flatten(1).sum(dim=1), lacking)
    least = [by_scipy(norm, *one) for one in zip(*problem, strict=True)]
    torch.testing.assert_close(
        DISTANCES[norm](point, x), torch.tensor(least).double(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("norm", PULLS)
def test_without_a_ball_it_is_the_nearest_point_of_the_plane(norm, problem):
    here, x, normal, lacking, _ = problem
    near = nearest_in_reach(here, x, normal, lacking, wide(torch.full((CASES,), 9.0)), PULLS[norm])
    # And does not depend on where the plane is seen from.
    shift = (normal * (here - x)).flatten(1).sum(dim=1)
    same = nearest_in_reach(
        x, x, normal, lacking + shift, wide(torch.full((CASES,), 9.0)), PULLS[norm]
    )
    torch.testing.assert_close(DISTANCES[norm](near, x), DISTANCES[norm](same, x))


@pytest.mark.parametrize("norm", PULLS)
def test_towards_a_plane_out_of_reach_it_goes_as_far_as_it_may(norm, problem):
    here, x, normal, _, _ = problem
    radius = wide(torch.full((CASES,), 0.01).double())
    point = nearest_in_reach(here, x, normal, torch.full((CASES,), 0.4), radius, PULLS[norm])
    torch.testing.assert_close(l2_distance(point, here), radius.flatten())
    assert ((normal * (point - here)).flatten(1).sum(dim=1) > 0).all()


@pytest.mark.parametrize("norm", PULLS)
def test_a_gradient_that_is_zero_leads_nowhere_beyond_the_ball(norm, problem):
    here, x, normal, lacking, radius = problem
    point = nearest_in_reach(here, x, 0 * normal, lacking, radius, PULLS[norm])
    assert torch.isfinite(point).all()
    assert (l2_distance(point, here) <= radius.flatten()).all()


def started(attack, blocks, images):
    oracle = Answers(blocks, attack, images, ONES, keep="nearest")
    return oracle, attack.start(images, oracle, NOISE)


def test_starts_at_the_border_on_the_side_that_fools(blocks, images):
    _, state = started(BrendelBethge(tries=80), blocks, images)
    assert (blocks(state.x_adv).argmax(dim=1) != 1).all()
    nearer = images + (1 - 2 / 1024) * (state.x_adv - images)
    assert (blocks(nearer).argmax(dim=1) == 1).all()


def test_an_image_that_fools_already_is_where_it_starts_and_ends(blocks, images):
    goal = Untargeted(torch.zeros(8, dtype=torch.int64))
    found = shrink(BrendelBethge(steps=5), blocks, images, goal, NOISE)
    assert torch.equal(found.x_adv, images)


@pytest.mark.parametrize("norm", PULLS)
def test_steps_stay_in_a_trust_region_that_falls_to_a_thousandth(norm, blocks, images):
    attack = BrendelBethge(norm=norm, steps=20)
    oracle, state = started(attack, blocks, images)
    first = 0.3 * l2_distance(state.x_adv, images)
    for k in range(20):
        after = attack.step(state, oracle)
        way = l2_distance(after.x_adv, state.x_adv)
        assert (way <= first * 2.0 ** (-k / 2) * 1.0001 + 1e-6).all()
        state = after


@pytest.fixture
def two(blocks):
    """Without class 2, so that there is one border, and every start leads to it."""
    layer = nn.Linear(12, 2, bias=False)
    layer.weight.data = blocks[1].weight[:2]
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


@pytest.mark.parametrize("norm", PULLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_within_1_percent_of_the_nearest_image_of_an_affine_classifier(norm, dtype, two, images):
    x = images[:4].to(dtype)  # their nearest image in L1 changes the heaviest pixel only
    weight, logits = two[1].weight, two(images[:4])
    lead = logits[:, 1] - logits[:, 0]
    dual = {"l2": 2, "linf": 1, "l1": torch.inf}[norm]
    least = lead / torch.linalg.vector_norm(weight[0] - weight[1], ord=dual)
    attack = BrendelBethge(norm=norm, steps=25, step_size=1.0, restarts=1)
    x_adv = attack(two.to(dtype), x, ONES.aim[:4])
    assert (two(x_adv).argmax(dim=1) == 0).all()
    ratio = DISTANCES[norm](x_adv, x) / least
    assert 1 - 1e-5 <= ratio.min() <= ratio.max() <= 1.01


# Of several borders it ends at the one that it started at; only starts from other noise help.
def test_more_starts_are_never_worse(blocks, images):
    attacks = [BrendelBethge(steps=8, restarts=starts) for starts in (1, 3, 9)]
    found = [shrink(attack, blocks, images, ONES, NOISE).x_adv for attack in attacks]
    one, three, nine = (l2_distance(x_adv, images) for x_adv in found)
    assert (nine <= three).all()
    assert (three <= one).all()
    assert (nine < 0.6 * one).any()


def test_towards_a_class_it_ends_there(blocks, images):
    goal = Targeted(torch.full((8,), 2))
    found = shrink(BrendelBethge(steps=20, restarts=1), blocks, images, goal, NOISE)
    assert (blocks(found.x_adv).argmax(dim=1) == 2).all()


def test_counts_its_passes(blocks, images):
    found = shrink(BrendelBethge(steps=3, tries=5, restarts=2), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [2 * (5 + 10 + 3 + 1)] * 8
    assert found.backward.tolist() == [2 * 3] * 8


@pytest.mark.parametrize(
    ("field", "value"), [("tries", 1), ("steps", 0), ("restarts", 0), ("step_size", -0.1)]
)
def test_refuses_a_number_that_is_none(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: expected a"):
        BrendelBethge(**{field: value})
