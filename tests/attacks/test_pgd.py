import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import FGSM, PGD, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.seeds import Noise

NOISE = Noise.first(0, "tests", np.arange(8))
ONES = torch.ones(8, dtype=torch.int64)


def test_the_images_are_what_they_are_said_to_be(blocks, images, radii):
    assert 0.1 <= images.min() <= images.max() <= 0.9
    logits = blocks(images)
    found = (logits[:, 1:2] - logits[:, [0, 2]]) / torch.tensor([18.0, 14.0])
    torch.testing.assert_close(found[:, 0], radii)
    assert (found[:, 1] > found[:, 0]).all()


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
    towards = torch.tensor([[1.0], [-1.0], [1.0]])
    corner = (towards * blocks[1].weight).sum(dim=0).sign().reshape(1, 3, 4)
    torch.testing.assert_close(x_adv, images + 0.05 * corner)


def test_towards_a_class_it_reaches_that_class_and_no_other(blocks, images):
    goal = Targeted(torch.full((8,), 2))
    x_adv = search(PGD(eps=0.45, steps=20), blocks, images, goal, NOISE).x_adv
    assert blocks(x_adv).argmax(dim=1).tolist() == [2] * 8


def test_the_one_line_call_takes_a_target(blocks, images):
    x_adv = PGD(eps=0.45, steps=20)(blocks, images, Targeted(torch.full((8,), 2)))
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
