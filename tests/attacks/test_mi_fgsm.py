"""MI-FGSM and the attacks that are it with other gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bezoar.attacks import (
    BIM,
    DIFGSM,
    MIFGSM,
    NIFGSM,
    PGD,
    RFGSM,
    SIFGSM,
    TIFGSM,
    VMIFGSM,
    Untargeted,
)
from bezoar.attacks.di_fgsm import _transformed
from bezoar.attacks.engine import perturb
from bezoar.seeds import Noise

NOISE = Noise.first(0, "tests", np.arange(12))
EPS, STEPS, MU = 0.1, 4, 0.7


@pytest.fixture
def case(convnet, batch):
    x, y = batch
    return convnet.double().requires_grad_(False), x.double(), y


def run(attack, case):
    model, x, y = case
    return perturb(attack, model, x, Untargeted(y), NOISE, batch=5)


def gradient_at(case, point):
    model, _, y = case
    point = point.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
    return gradient


def loop(case, gradient_of, decay=MU):
    """The paper's loop with another gradient in it: ``gradient_of(x_t, velocity, t)``.

    Its gradients have a mean size of 1, not a sum of 1: only looking ahead sees the difference.
    """
    _, x, _ = case
    x_adv, velocity = x, torch.zeros_like(x)
    for t in range(STEPS):
        gradient = gradient_of(x_adv, velocity, t)
        velocity = decay * velocity + gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        x_adv = x_adv + EPS / STEPS * velocity.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    return x_adv


def test_is_the_loop_of_the_paper(case):
    expected = loop(case, lambda x, velocity, t: gradient_at(case, x))
    found = run(MIFGSM(eps=EPS, steps=STEPS, decay=MU), case)
    torch.testing.assert_close(found.x_adv, expected, atol=1e-9, rtol=0)
    assert found.forward.tolist() == found.backward.tolist() == [STEPS] * 12


def test_nesterov_looks_ahead(case):
    def gradient(x, velocity, t):
        return gradient_at(case, x + EPS / STEPS * MU * velocity)

    found = run(NIFGSM(eps=EPS, steps=STEPS, decay=MU), case)
    torch.testing.assert_close(found.x_adv, loop(case, gradient), atol=1e-9, rtol=0)


def test_scale_copies_are_averaged(case):
    def gradient(x, velocity, t):
        ahead = x + EPS / STEPS * MU * velocity
        return sum(gradient_at(case, ahead / 2**i) / 2**i for i in range(3)) / 3

    found = run(SIFGSM(eps=EPS, steps=STEPS, decay=MU, copies=3), case)
    torch.testing.assert_close(found.x_adv, loop(case, gradient), atol=1e-9, rtol=0)
    assert found.forward.tolist() == [3 * STEPS] * 12


def test_smoothing_is_the_mean_over_shifts(case):
    place = torch.arange(-1, 2).double()
    weight = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 0.8**2))
    weight /= weight.sum()

    def gradient(x, velocity, t):
        wide = F.pad(gradient_at(case, x), (1, 1, 1, 1))
        _, _, height, width = x.shape
        return sum(
            weight[i, j] * wide[..., i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
        )

    found = run(TIFGSM(eps=EPS, steps=STEPS, decay=MU, kernel=3, sigma=0.8), case)
    torch.testing.assert_close(found.x_adv, loop(case, gradient), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "attack",
    [
        NIFGSM(eps=EPS, steps=1, decay=MU),
        DIFGSM(eps=EPS, steps=STEPS, decay=MU, p=0),
        DIFGSM(eps=EPS, steps=STEPS, decay=MU, smallest=1),
        TIFGSM(eps=EPS, steps=STEPS, decay=MU, kernel=1),
        VMIFGSM(eps=EPS, steps=STEPS, decay=MU, samples=2, beta=0),
        VMIFGSM(eps=EPS, steps=1, decay=MU, samples=2),
    ],
    ids=repr,
)
def test_without_what_they_add_all_are_mi_fgsm(attack, case):
    expected = run(MIFGSM(eps=EPS, steps=attack.steps, decay=MU), case).x_adv
    torch.testing.assert_close(run(attack, case).x_adv, expected, atol=1e-9, rtol=0)


def test_one_copy_is_nesterovs_attack(case):
    expected = run(NIFGSM(eps=EPS, steps=STEPS, decay=MU), case).x_adv
    found = run(SIFGSM(eps=EPS, steps=STEPS, decay=MU, copies=1), case).x_adv
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_looking_ahead_makes_a_difference(case):
    of_ni = run(NIFGSM(eps=EPS, steps=STEPS, decay=1.0), case).x_adv
    of_mi = run(MIFGSM(eps=EPS, steps=STEPS, decay=1.0), case).x_adv
    assert (of_ni - of_mi).abs().max() > 0.01


def test_without_momentum_it_is_the_basic_iterative_method(case):
    expected = run(BIM(eps=EPS, steps=STEPS), case).x_adv
    assert torch.equal(run(MIFGSM(eps=EPS, steps=STEPS, decay=0), case).x_adv, expected)
    attack = PGD(eps=EPS, steps=STEPS, step_size=EPS / STEPS, random_start=False)
    assert torch.equal(run(attack, case).x_adv, expected)


def test_variance_tuning_asks_around_the_point(case):
    attack = VMIFGSM(eps=EPS, steps=STEPS, samples=3)
    found = run(attack, case)
    assert found.forward.tolist() == found.backward.tolist() == [4 * STEPS] * 12
    assert not torch.equal(found.x_adv, run(MIFGSM(eps=EPS, steps=STEPS), case).x_adv)


class TestTransformation:
    X = torch.rand(64, 2, 12, 9, generator=torch.Generator().manual_seed(0)) / 2 + 0.5

    def draws(self, *columns):
        return torch.stack([torch.full((64,), float(value)) for value in columns], dim=1)

    def test_shrinks_to_the_middle_when_the_place_is_the_middle(self):
        seen = _transformed(self.X, self.draws(0, 0, 0.5, 0.5), 1.0, 0.5)
        assert (seen[:, :, :2] == 0).all()
        assert (seen[:, :, -2:] == 0).all()
        assert (seen[:, :, 4:8, 3:6] > 0.4).all()

    def test_stays_inside_the_image_at_the_ends(self):
        for place in (0.0, 0.999999):
            seen = _transformed(self.X, self.draws(0, 0, place, place), 1.0, 0.5)
            # Half the height and width: a quarter of the light, and none beyond the border.
            share = seen.sum(dim=(1, 2, 3)) / self.X.sum(dim=(1, 2, 3))
            torch.testing.assert_close(share, torch.full_like(share, 0.25), atol=0.03, rtol=0)

    def test_leaves_the_others_as_they_are(self):
        draws = self.draws(0.7, 0, 0, 0)
        assert torch.equal(_transformed(self.X, draws, 0.5, 0.5), self.X)


def test_r_fgsm_steps_at_random_then_along_the_gradient(case):
    _, x, _ = case
    start = (x + 0.03 * NOISE.normal((1, 4, 5)).sign()).clamp(0, 1)
    expected = start + 0.07 * gradient_at(case, start).sign()
    expected = torch.min(torch.max(expected, x - EPS), x + EPS).clamp(0, 1)
    found = run(RFGSM(eps=EPS, alpha=0.3), case)
    torch.testing.assert_close(found.x_adv, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kernel", [2, 4])
def test_refuses_a_kernel_without_a_middle(kernel):
    with pytest.raises(ValueError, match=f"kernel={kernel}: expected an odd number"):
        TIFGSM(kernel=kernel)
