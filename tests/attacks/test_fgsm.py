import numpy as np
import torch
from torch import nn

from bezoar.attacks import FGSM, Targeted, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.seeds import Noise

# logits = (w . x, 0): to raise the loss of class 0, every pixel moves against sign(w).
LAYER = nn.Linear(4, 2, bias=False)
LAYER.weight.data = torch.tensor([[1.0, -2.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
MODEL = nn.Sequential(nn.Flatten(), LAYER)
NOISE = Noise.first(0, "tests", np.arange(1))


def image(*values):
    return torch.tensor(values).reshape(1, 1, 2, 2)


def test_every_pixel_moves_by_eps_against_its_weight_and_one_without_weight_stays():
    x_adv = perturb(FGSM(eps=0.1), MODEL, image(0.5, 0.5, 0.5, 0.5), goal(0), NOISE).x_adv
    torch.testing.assert_close(x_adv, image(0.4, 0.6, 0.4, 0.5))


def test_the_other_class_moves_the_other_way():
    x_adv = perturb(FGSM(eps=0.1), MODEL, image(0.5, 0.5, 0.5, 0.5), goal(1), NOISE).x_adv
    torch.testing.assert_close(x_adv, image(0.6, 0.4, 0.6, 0.5))


def test_a_step_out_of_the_box_is_cut():
    x_adv = perturb(FGSM(eps=0.1), MODEL, image(0.05, 0.95, 0.0, 1.0), goal(0), NOISE).x_adv
    torch.testing.assert_close(x_adv, image(0.0, 1.0, 0.0, 1.0))


def test_towards_a_chosen_class_is_away_from_the_other_of_two():
    x = image(0.5, 0.5, 0.5, 0.5)
    towards = perturb(FGSM(eps=0.1), MODEL, x, Targeted(torch.tensor([1])), NOISE).x_adv
    away = perturb(FGSM(eps=0.1), MODEL, x, goal(0), NOISE).x_adv
    assert torch.equal(towards, away)


def test_the_direction_comes_from_the_clean_image():
    # |x - 0.6| falls below 0.6 and rises above: only the gradient at the clean 0.5 counts.
    class Valley(nn.Module):
        def forward(self, x):
            distance = (x - 0.6).abs().flatten(1).sum(dim=1)
            return torch.stack([distance, torch.zeros_like(distance)], dim=1)

    x_adv = perturb(FGSM(eps=0.3), Valley(), image(0.5, 0.5, 0.7, 0.7), goal(0), NOISE).x_adv
    torch.testing.assert_close(x_adv, image(0.8, 0.8, 0.4, 0.4))


def test_one_forward_and_one_backward_pass():
    found = perturb(FGSM(eps=0.1), MODEL, image(0.5, 0.5, 0.5, 0.5), goal(0), NOISE)
    assert (found.forward.tolist(), found.backward.tolist()) == ([1], [1])


def goal(y):
    return Untargeted(torch.tensor([y]))
