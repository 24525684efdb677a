import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import FGSM, PGD, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.seeds import Noise

# Class k reads its own four pixels only. Lowering those of class y and raising all others raises
# every rival at once, so the corner of the ball that PGD walks to is the worst there is, and an
# image falls just when margin_j / ||w_y - w_j||_1 < eps for some rival j.
OWN = torch.tensor([[1.0, -2.0, 3.0, -4.0], [2.0, 2.0, -2.0, 2.0], [-2.0, 2.0, 1.0, -1.0]])
RADII = [0.02, 0.04, 0.06, 0.08, 0.12, 0.14, 0.16, 0.18]


@pytest.fixture
def blocks():
    layer = nn.Linear(12, 3, bias=False)
    layer.weight.data = torch.block_diag(*OWN)
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def images(blocks):
    """Images of class 1 whose distance from the border to class 0 is RADII; class 2 is farther."""
    weight = blocks[1].weight.detach()
    margins = torch.tensor(RADII) * (10 + 8)  # ||w_1 - w_0||_1 = 8 + 10
    x = torch.full((8, 12), 0.5)
    logits = x @ weight.T
    # Class 0 is held at 0 and class 2 far below by their own pixels, class 1 gets its margin.
    x[:, :4] -= logits[:, :1] * OWN[0] / OWN[0].square().sum()
    x[:, 8:] -= (logits[:, 2:] + 1.2) * OWN[2] / OWN[2].square().sum()
    x[:, 4:8] += (margins[:, None] - logits[:, 1:2]) * OWN[1] / OWN[1].square().sum()
    return x.reshape(8, 1, 3, 4)


NOISE = Noise.first(0, "tests", np.arange(8))
ONES = torch.ones(8, dtype=torch.int64)


def test_the_images_are_what_they_are_said_to_be(blocks, images):
    assert 0.1 <= images.min() <= images.max() <= 0.9
    logits = blocks(images)
    radii = (logits[:, 1:2] - logits[:, [0, 2]]) / torch.tensor([18.0, 14.0])
    torch.testing.assert_close(radii[:, 0], torch.tensor(RADII))
    assert (radii[:, 1] > radii[:, 0]).all()


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("engine", [perturb, search])
def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(
    engine, random_start, blocks, images
):
    attack = PGD(eps=0.1, steps=10, random_start=random_start)
    x_adv = engine(attack, blocks, images, Untargeted(ONES), NOISE).x_adv
    standing = (blocks(x_adv).argmax(dim=1) == 1).tolist()
    assert standing == [False, False, False, False, True, True, True, True]


def test_ends_in_the_worst_corner_of_the_ball(blocks, images):
    x_adv = perturb(PGD(eps=0.05, steps=10), blocks, images, Untargeted(ONES), NOISE).x_adv
    corner = torch.cat([OWN[0].sign(), -OWN[1].sign(), OWN[2].sign()]).reshape(1, 3, 4)
    torch.testing.assert_close(x_adv, images + 0.05 * corner)


def test_towards_a_class_it_reaches_that_class_and_no_other(blocks, images):
    goal = Targeted(torch.full((8,), 2))
    x_adv = search(PGD(eps=0.45, steps=20), blocks, images, goal, NOISE).x_adv
    assert blocks(x_adv).argmax(dim=1).tolist() == [2] * 8


def test_one_step_of_eps_from_the_clean_image_is_fgsm(convnet, batch):
    x, y = batch
    noise = Noise.first(0, "tests", np.arange(12))
    one = perturb(
        PGD(eps=0.1, steps=1, step_size=0.1, random_start=False),
        convnet,
        x,
        Untargeted(y),
        noise,
    )
    fgsm = perturb(FGSM(eps=0.1), convnet, x, Untargeted(y), noise)
    assert torch.equal(one.x_adv, fgsm.x_adv)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_default_step_reaches_any_point_of_the_ball_from_any_other(steps, blocks, images):
    # 2.5 eps / steps, however many steps: the far corner is 2 eps away.
    found = perturb(PGD(eps=0.05, steps=steps), blocks, images, Untargeted(ONES), NOISE)
    fgsm = perturb(FGSM(eps=0.05), blocks, images, Untargeted(ONES), NOISE)
    torch.testing.assert_close(found.x_adv, fgsm.x_adv)


@pytest.mark.parametrize(("random_start", "radius"), [(True, 0.1), (False, 0.0)])
def test_perturb_is_the_loop_of_the_paper(random_start, radius, convnet, batch):
    model, x, y = convnet.double(), batch[0].double(), batch[1]
    noise = Noise.first(0, "tests", np.arange(12))
    expected = (x + radius * noise.uniform((1, 4, 5)).double()).clamp(0, 1)
    for _ in range(5):
        point = expected.detach().requires_grad_()
        nn.functional.cross_entropy(model(point), y).backward()
        expected = expected + 0.03 * point.grad.sign()
        expected = torch.min(torch.max(expected, x - 0.1), x + 0.1).clamp(0, 1)
    attack = PGD(eps=0.1, steps=5, step_size=0.03, random_start=random_start)
    found = perturb(attack, model, x, Untargeted(y), noise, batch=5)
    torch.testing.assert_close(found.x_adv, expected, atol=1e-9, rtol=0)
