import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from bezoar.attacks import APGDL1, Untargeted
from bezoar.attacks.apgd_l1 import _sparse_sign
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l0_distance, l1_distance, project_l1
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


@pytest.fixture
def least(blocks, images):
    """Exact L1 distance of each image to another class, by linear programming."""
    weight, flat = blocks[1].weight.numpy(), images.flatten(1).numpy()
    distances = []
    for x in flat:
        # min sum(t) with -t <= z - x <= t, <w_y - w_k, z> <= 0, 0 <= z <= 1
        eye = np.eye(12)
        programs = [
            linprog(
                np.r_[np.zeros(12), np.ones(12)],
                A_ub=np.vstack(
                    [
                        np.hstack([eye, -eye]),
                        np.hstack([-eye, -eye]),
                        np.r_[weight[1] - weight[k], np.zeros(12)],
                    ]
                ),
                b_ub=np.r_[x, -x, 0],
                bounds=[(0, 1)] * 12 + [(0, None)] * 12,
            )
            for k in (0, 2)
        ]
        distances.append(min(program.fun for program in programs))
    return torch.tensor(distances)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("image", [0, 2, 5, 7])
def test_reaches_what_lies_5_percent_beyond_the_border_and_nothing_before_it(
    loss, image, blocks, images, least
):
    x, y = images[image : image + 1], Untargeted(ONES.aim[:1])
    noise = NOISE.take(np.array([image]), np.array([0]))
    beyond, before = (
        search(APGDL1(eps=share * least[image].item(), loss=loss), blocks, x, y, noise)
        for share in (1.05, 0.99)
    )
    assert beyond.first_success.item() >= 0
    assert before.first_success.item() == -1


def loop(model, x, y, noise, eps, steps):
    """The attack on one image, phase by phase, with its projection found by bisection."""

    def ask(z):
        z = z.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(z), y)
        loss.backward()
        return loss.item(), z.grad

    def project(z, radius):
        change, low, high = z - x, 0.0, (z - x).abs().max().item()

        def kept(by):
            return (x + change.sign() * (change.abs() - by).clamp(min=0)).clamp(0, 1)

        for _ in range(100):
            by = (low + high) / 2
            low, high = (by, high) if (kept(by) - x).abs().sum() > radius else (low, by)
        return kept(high if low > 0 else 0.0)

    point = project(x + noise, 3 * eps)
    for radius, count in [(3 * eps, 3 * steps // 10), (2 * eps, 3 * steps // 10), (eps, steps)]:
        count = min(count, steps - 2 * (3 * steps // 10))
        here = project(point, radius)
        eta, old, best = radius, (here != x).sum().item(), -np.inf
        k = old / 1.5
        for i in range(count):
            value, slope = ask(here)
            if value > best:
                best, point, at_best = value, here, slope
            if i > 0 and i % max(1, count // 25) == 0:
                new = (point != x).sum().item()
                if new < 0.95 * old:
                    eta, here, slope = radius, point, at_best
                else:
                    eta = max(eta / 1.5, radius / 10)
                old, k = new, new / 1.5
            inside = ~(((here < 1e-6) & (slope < 0)) | ((here > 1 - 1e-6) & (slope > 0)))
            slope = (slope * inside).flatten()
            u = torch.zeros_like(slope)
            top = slope.abs().topk(max(1, int(k))).indices
            u[top] = slope.sign()[top] / (slope[top] != 0).sum()
            here = project(here + eta * u.reshape(x.shape), radius)
    return point


@pytest.mark.parametrize("steps", [4, 7, 50])
def test_is_the_algorithm_of_the_paper_image_by_image(steps):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(60, 16), nn.Tanh(), nn.Linear(16, 4))
        x = torch.rand(8, 3, 4, 5).double()
    model = model.double().requires_grad_(False)
    y = model(x).argmax(dim=1)
    found = perturb(APGDL1(eps=3.0, steps=steps), model, x, Untargeted(y), NOISE, batch=3).x_adv
    noise = NOISE.normal((3, 4, 5)).double()
    for i in range(8):
        one = slice(i, i + 1)
        point = loop(model, x[one], y[one], noise[one], 3.0 * (1 - 1e-5), steps)
        torch.testing.assert_close(found[one], point, atol=1e-6, rtol=0)


def test_walks_in_balls_of_3_eps_2_eps_and_eps(blocks, images):
    attack = APGDL1(eps=0.5, steps=20)
    oracle = Answers(blocks, attack, images, ONES)
    states = [attack.start(images, oracle, NOISE)]
    for _ in range(20):
        states.append(attack.step(states[-1], oracle))
    size = torch.stack([l1_distance(state.x_adv, images) for state in states[1:]])
    for rows, radius in ((slice(0, 6), 1.5), (slice(6, 12), 1.0), (slice(12, 20), 0.5)):
        assert size[rows].max() <= radius
        assert size[rows].max() > 0.99 * radius


def test_counts_a_pass_each_way_a_step(blocks, images):
    found = perturb(APGDL1(eps=1.0, steps=9), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == found.backward.tolist() == [9] * 8


def test_a_step_goes_along_the_largest_entries_that_the_box_allows():
    gradient = torch.tensor([4.0, -3.0, 2.0, -1.0]).reshape(1, 1, 2, 2).repeat(4, 1, 1, 1)
    x = torch.tensor([0.5, 0.5, 0.5, 0.5]).reshape(1, 1, 2, 2).repeat(4, 1, 1, 1)
    x[3, 0, 0, 0] = 1
    u = _sparse_sign(gradient, x, torch.tensor([0.7, 1.0, 2.9, 2.0]))
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [0.5, -0.5, 0, 0], [0, -0.5, 0.5, 0]]
    assert u.flatten(1).tolist() == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.1, 1.0, 3.0])
def test_the_projection_fulfils_the_conditions_of_karush_kuhn_and_tucker(seed, radius):
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 1, 3, 4, generator=rng).double()
    far = x + torch.randn(5, 1, 3, 4, generator=rng).double()
    z = project_l1(far, x, torch.full((5, 1, 1, 1), radius, dtype=torch.float64))
    assert ((z >= 0) & (z <= 1)).all()
    assert (l1_distance(z, x) <= radius + 1e-12).all()
    # Of one image, what moved and is not stopped by the box shrank by the same amount; what
    # does not move would have shrunk by less, what is stopped by more.
    shrunk, moved = (far - x).abs() - (z - x).abs(), z != x
    stopped = (z < 1e-12) | (z > 1 - 1e-12)
    by = torch.where(moved & ~stopped, shrunk, 0).flatten(1).amax(dim=1).reshape(5, 1, 1, 1)
    free = moved & ~stopped
    torch.testing.assert_close(shrunk[free], by.expand_as(shrunk)[free])
    assert (shrunk <= by + 1e-9)[~moved].all()
    assert (shrunk >= by - 1e-9)[stopped & moved].all()
    # It shrinks only where the ball makes it.
    slack = l1_distance(z, x) < radius - 1e-9
    assert (by.flatten()[slack] < 1e-9).all()


def test_the_projection_of_what_fits_is_the_cut_to_the_box():
    x = torch.rand(5, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    far = x + torch.linspace(-2, 2, 12).reshape(3, 4)
    z = project_l1(far, x, torch.full((5, 1, 1, 1), 12.0))
    torch.testing.assert_close(z, far.clamp(0, 1))


def test_keeps_to_few_values(blocks, images):
    x_adv = perturb(APGDL1(eps=0.6, steps=50), blocks, images, ONES, NOISE).x_adv
    assert (l0_distance(x_adv, images) <= 6).all()
