import numpy as np
import pytest
import torch

from bezoar.attacks import FGSM, FGSMRandomStart, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.seeds import Noise

NOISE = Noise.first(0, "tests", np.arange(12))


@pytest.fixture
def ascent(linear, batch):
    """Signs of the gradient of the linear classifier, that of class 0 made certain."""
    linear[1].weight.data[1:] = 0
    linear[1].bias.data.zero_()
    return -linear[1].weight[0].sign().reshape(1, 4, 5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.25, 2.0])
def test_one_step_of_alpha_eps_from_the_random_point_back_into_the_ball(
    alpha, linear, ascent, batch
):
    x, y = 0.2 + 0.6 * batch[0], torch.zeros(12, dtype=torch.int64)
    u = 0.1 * NOISE.uniform((1, 4, 5))
    attack = FGSMRandomStart(eps=0.1, alpha=alpha)
    expected = x + (u + alpha * 0.1 * ascent).clamp(-0.1, 0.1)
    found = perturb(attack, linear, x, Untargeted(y), NOISE)
    torch.testing.assert_close(found.x_adv, expected)


def test_a_step_of_2_eps_forgets_where_it_started(linear, ascent, batch):
    x, goal = batch[0], Untargeted(torch.zeros(12, dtype=torch.int64))
    across = perturb(FGSMRandomStart(eps=0.1, alpha=2), linear, x, goal, NOISE).x_adv
    torch.testing.assert_close(across, perturb(FGSM(eps=0.1), linear, x, goal, NOISE).x_adv)
