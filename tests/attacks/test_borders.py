"""What attacks that see decisions share, on planes, where the border is known."""

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import HopSkipJump, Targeted, Untargeted
from bezoar.attacks.borders import first_fooling, poll, to_border
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES, wide
from bezoar.seeds import Noise, hashed, hashed_normal

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
KEY = Noise.first(0, "tests", np.arange(8)).keys()


def oracle_of(model, images, goal=ONES):
    return Answers(model, HopSkipJump(), images, goal)


class TestFirstFooling:
    def test_is_the_first_draw_that_fools(self, blocks, images):
        goal = Targeted(torch.full((8,), 2))
        x_adv = first_fooling(images, oracle := oracle_of(blocks, images, goal), KEY, 100)
        drawn = [hashed(KEY, torch.full_like(KEY, k), (1, 3, 4)) for k in range(100)]
        fools = torch.stack([blocks(draw).argmax(dim=1) == 2 for draw in drawn])
        first = fools.int().argmax(dim=0)
        assert fools.any(dim=0).all()
        assert first.max() > 1
        expected = torch.stack(drawn)[first, torch.arange(8)]
        assert torch.equal(x_adv, expected)
        assert torch.equal(oracle.forward, first + 2)  # the clean image, and draws 0 to first

    def test_of_an_image_that_fools_is_the_image(self, blocks, images):
        goal = Untargeted(torch.tensor([0, 1] * 4))
        x_adv = first_fooling(images, oracle := oracle_of(blocks, images, goal), KEY, 100)
        assert torch.equal(x_adv[::2], images[::2])
        assert oracle.forward[::2].tolist() == [1] * 4
        assert (blocks(x_adv).argmax(dim=1) != goal.aim).all()

    def test_is_the_clean_image_where_no_draw_fools(self, images):
        sure = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        nn.init.zeros_(sure[1].weight)
        sure[1].bias.data = torch.tensor([0.0, 1.0, 0.0])
        x_adv = first_fooling(images, oracle := oracle_of(sure, images), KEY, 7)
        assert torch.equal(x_adv, images)
        assert oracle.forward.tolist() == [8] * 8
        assert not oracle.reached.any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
class TestToBorder:
    @pytest.fixture
    def far(self, blocks, images):
        return first_fooling(images, oracle_of(blocks, images), KEY, 100)

    @pytest.mark.parametrize("width", [0.3, 1e-2, 1e-4])
    def test_ends_on_the_fooling_side_and_not_further_than_the_width(
        self, norm, width, far, blocks, images
    ):
        found = to_border(far, images, oracle_of(blocks, images), norm, torch.full((8,), width))
        assert (blocks(found).argmax(dim=1) != 1).all()
        distance = DISTANCES[norm](found, images)
        assert (distance <= DISTANCES[norm](far, images)).all()
        # One width nearer on the same way there is the clean class.
        nearer = (distance - 1.01 * width).clamp(min=0)
        if_l2 = images + wide(nearer / distance) * (found - images)
        if_linf = images + (found - images).clamp(-wide(nearer), wide(nearer))
        before = {"l2": if_l2, "linf": if_linf}[norm]
        assert (blocks(before).argmax(dim=1) == 1).all()

    def test_costs_a_pass_a_halving(self, norm, far, blocks, images):
        oracle = oracle_of(blocks, images)
        distance = DISTANCES[norm](far, images)
        to_border(far, images, oracle, norm, distance / torch.tensor([1.0, 2, 4, 8, 16, 5, 3, 1e9]))
        assert oracle.forward.tolist() == [0, 1, 2, 3, 4, 3, 2, 20]

    def test_asks_nothing_where_there_is_no_way(self, norm, blocks, images):
        oracle = oracle_of(blocks, images)
        found = to_border(images, images, oracle, norm, torch.full((8,), 1e-3))
        assert torch.equal(found, images)
        assert oracle.forward.tolist() == [0] * 8

    def test_gives_back_a_point_that_is_on_the_border(self, norm, far, blocks, images):
        oracle = oracle_of(blocks, images)
        found = to_border(far, images, oracle, norm, torch.full((8,), 1e-3))
        again = to_border(found, images, oracle, norm, torch.full((8,), 1e-2))
        torch.testing.assert_close(again, found, atol=1e-2, rtol=0)
        same = to_border(found, images, oracle, norm, torch.full((8,), 10.0))
        assert torch.equal(same, found)


class TestPoll:
    COUNT = torch.tensor([1, 5, 0, 9, 300, 2, 3, 4])

    def place(self, centre):
        def around(rows, u):
            points = (centre[rows] + 0.3 * u).clamp(0, 1)
            return points, points - centre[rows]

        return around

    def test_is_the_sum_over_points_one_by_one(self, blocks, images):
        oracle, drawn = oracle_of(blocks, images), torch.arange(8) + 50
        total, leaning, mean = poll(images, oracle, KEY, drawn, self.COUNT, self.place(images))
        assert torch.equal(oracle.forward, self.COUNT)
        model = blocks.double()
        for i in (0, 1, 3, 7):
            draws = drawn[i] + torch.arange(int(self.COUNT[i]))
            u = hashed_normal(KEY[i].expand(len(draws)), draws, (1, 3, 4)).double()
            points = (images[i] + 0.3 * u / u.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0)
            points = points.clamp(max=1)
            phi = 2.0 * (model(points).argmax(dim=1) != 1) - 1
            moved = points - images[i]
            torch.testing.assert_close(total[i].double(), moved.sum(dim=0), atol=1e-5, rtol=0)
            expected = (phi[:, None, None, None] * moved).sum(dim=0)
            torch.testing.assert_close(leaning[i].double(), expected, atol=1e-5, rtol=0)
            assert mean[i].item() == pytest.approx(phi.mean().item())

    def test_leans_along_the_normal_of_the_border(self, blocks, images):
        towards = blocks[1].weight[0] - blocks[1].weight[1]
        margins = (blocks(images) @ torch.tensor([-1.0, 1, 0])).reshape(-1, 1)
        on_border = (images.flatten(1) + margins * towards / towards.square().sum()).reshape(
            images.shape
        )
        count = torch.full((8,), 5000)
        place = lambda rows, u: (on_border[rows] + 1e-3 * u, u)  # noqa: E731
        leaning = poll(on_border, oracle_of(blocks, images), KEY, KEY * 0, count, place)[1]
        cosine = nn.functional.cosine_similarity(leaning.flatten(1), towards[None])
        assert cosine.min() > 0.98

    def test_asks_a_bounded_number_of_points_at_once(self, blocks, images):
        sizes = []

        class Watched(nn.Module):
            def forward(self, x):
                sizes.append(len(x))
                return blocks(x)

        count = torch.full((8,), 300)
        poll(images, oracle_of(Watched(), images), KEY, KEY * 0, count, self.place(images))
        assert max(sizes) <= 512
        assert sum(sizes) == 2400
