import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from bezoar.attacks import FABTargeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.geometry import linf_distance, onto_plane
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


def test_finds_the_nearest_fooling_image_of_an_affine_classifier(blocks, images, radii):
    # eps far out: what comes back is the nearest image, not one at the border of the ball.
    x_adv = perturb(FABTargeted(eps=1, steps=20), blocks, images, ONES, NOISE).x_adv
    assert (blocks(x_adv).argmax(dim=1) == 0).all()
    distance = linf_distance(x_adv, images)
    assert (distance >= radii - 1e-6).all()
    assert (distance <= 1.05 * radii).all()


def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(blocks, images):
    found = search(FABTargeted(eps=0.1), blocks, images, ONES, NOISE)
    standing = (blocks(found.x_adv).argmax(dim=1) == 1).tolist()
    assert standing == [False] * 4 + [True] * 4
    assert linf_distance(found.x_adv, images).max() <= 0.1 + 1e-6


def test_counts_what_it_asks(blocks, images):
    found = perturb(FABTargeted(eps=0.1, steps=6), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [14] * 8
    assert found.backward.tolist() == [6] * 8


class TestProjection:
    def problem(self, seed, size=6):
        rng = torch.Generator().manual_seed(seed)
        x = torch.rand(1, 1, 1, size, generator=rng).double()
        w = torch.randn(1, 1, 1, size, generator=rng).double()
        inside = torch.rand(1, 1, 1, size, generator=rng).double()
        return x, w, (w * inside).flatten(1).sum(dim=1)  # the plane meets the box

    @pytest.mark.parametrize("seed", range(12))
    def test_is_the_solution_of_the_linear_program(self, seed):
        x, w, b = self.problem(seed)
        z = onto_plane(x, w, b, "linf")
        torch.testing.assert_close((w * z).flatten(1).sum(dim=1), b)
        assert ((z >= 0) & (z <= 1)).all()
        # min r with -r <= z - x <= r, <w, z> = b, 0 <= z <= 1
        flat, n = x.flatten().numpy(), x.numel()
        bounds = [(0, 1)] * n + [(0, None)]
        eye, ones = np.eye(n), np.ones((n, 1))
        above, below = np.hstack([eye, -ones]), np.hstack([-eye, -ones])
        best = linprog(
            np.r_[np.zeros(n), 1],
            A_ub=np.vstack([above, below]),
            b_ub=np.r_[flat, -flat],
            A_eq=np.r_[w.flatten().numpy(), 0][None],
            b_eq=b.numpy(),
            bounds=bounds,
        )
        assert linf_distance(z, x).item() == pytest.approx(best.fun, abs=1e-9)

    @pytest.mark.parametrize("seed", range(12))
    def test_in_l2_it_moves_every_free_pixel_in_proportion_to_its_weight(self, seed):
        # The conditions of Karush, Kuhn and Tucker: what the box does not stop moves by one factor.
        x, w, b = self.problem(seed)
        z = onto_plane(x, w, b, "l2")
        torch.testing.assert_close((w * z).flatten(1).sum(dim=1), b)
        assert ((z >= 0) & (z <= 1)).all()
        factor = ((z - x) / w).flatten()
        free = ((z > 1e-9) & (z < 1 - 1e-9)).flatten()
        torch.testing.assert_close(factor[free], factor[free][:1].expand(int(free.sum())))
        assert (factor[~free].abs() <= factor[free][0].abs() + 1e-9).all()

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_a_plane_beyond_the_box_gives_the_nearest_corner(self, norm):
        x, w, _ = self.problem(0)
        z = onto_plane(x, w, torch.tensor([1e3]).double(), norm)
        torch.testing.assert_close(z, (w > 0).double())

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_without_a_normal_nothing_moves(self, norm):
        x, w, _ = self.problem(1)
        z = onto_plane(x, torch.zeros_like(w), torch.tensor([0.3]).double(), norm)
        torch.testing.assert_close(z, x)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_on_the_plane_nothing_moves(self, norm):
        x, w, _ = self.problem(2)
        z = onto_plane(x, w, (w * x).flatten(1).sum(dim=1), norm)
        torch.testing.assert_close(z, x)
