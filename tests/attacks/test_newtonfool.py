import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import NewtonFool, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l2_distance
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))


def noise_of(count):
    return Noise.first(0, "tests", np.arange(count))


# Weaker than the attacks of test_nearest.py, within 25 % of the nearest image and not 5: the
# probability of the class falls fastest towards all other classes together, and it stops at the
# first image that fools.
def test_is_within_25_percent_of_the_nearest_image_of_an_affine_classifier(blocks, images):
    weight = blocks[1].weight
    logits = blocks(images)
    least = torch.stack(
        [(logits[:, 1] - logits[:, k]) / (weight[k] - weight[1]).norm() for k in (0, 2)]
    ).amin(dim=0)
    x_adv = NewtonFool(eta=0.005, steps=300)(blocks, images, ONES.aim)
    assert (blocks(x_adv).argmax(dim=1) != 1).all()
    ratio = l2_distance(x_adv, images) / least
    assert 1 - 1e-5 <= ratio.min() <= ratio.max() <= 1.25


def test_one_step_closed_form():
    # Two classes: p is the logistic function s of the lead m = w . x, and grad p = s (1 - s) w.
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    model = nn.Sequential(nn.Flatten(), layer).requires_grad_(False)
    x = torch.tensor([[0.5, 0.7, 0.4, 0.2], [0.4, 0.6, 0.3, 0.25]]).reshape(2, 1, 2, 2)
    goal = Untargeted(torch.zeros(2, dtype=torch.int64))
    s = torch.sigmoid(x.flatten(1) @ layer.weight[0])
    newton = (s - 0.5) / (s * (1 - s) * 5)  # its length; |w| = 5
    for eta, length in ((10.0, newton), (0.01, 0.01 * x.flatten(1).norm(dim=1))):
        moved = perturb(NewtonFool(eta=eta, steps=1), model, x, goal, noise_of(2)).x_adv
        expected = x.flatten(1) - length[:, None] * layer.weight[0] / 5
        torch.testing.assert_close(moved.flatten(1), expected)


def by_the_paper(model, image, label, eta, steps):
    """The algorithm for one image, up to the first that fools, cut to the box."""
    x = image.clone()
    while model(x[None]).argmax() == label and steps:
        x.requires_grad_()
        probabilities = model(x[None])[0].softmax(dim=0)
        p = probabilities[label]
        (gradient,) = torch.autograd.grad(p, x)
        delta = min(eta * image.norm() * gradient.norm(), p.item() - 1 / len(probabilities))
        x = (x.detach() - delta * gradient / gradient.square().sum()).clamp(0, 1)
        steps -= 1
    return x


def test_is_the_loop_of_the_paper(convnet, batch):
    model, x = convnet.double().requires_grad_(False), batch[0].double()
    y = model(x).argmax(dim=1)
    walked = perturb(NewtonFool(steps=12), model, x, Untargeted(y), noise_of(12)).x_adv
    expected = [by_the_paper(model, *pair, 0.01, 12) for pair in zip(x, y, strict=True)]
    torch.testing.assert_close(walked, torch.stack(expected))
    fooled = model(walked).argmax(dim=1) != y
    assert fooled.any()
    assert not fooled.all()


def test_no_step_is_longer_than_a_share_of_the_image(blocks, images):
    attack = NewtonFool(eta=0.02, steps=1)
    oracle = Answers(blocks, attack, images, ONES)
    state = attack.start(images, oracle, noise_of(8))
    for _ in range(5):
        after = attack.step(state, oracle)
        longest = 0.02 * images.flatten(1).norm(dim=1)
        assert (l2_distance(after.x_adv, state.x_adv) <= longest * (1 + 1e-5)).all()
        state = after


def test_more_steps_never_leave_more_standing(convnet, batch):
    x, _ = batch
    goal = Untargeted(convnet(x).argmax(dim=1))
    attacks = [NewtonFool(steps=steps) for steps in (1, 4, 16, 64)]
    found = [search(attack, convnet, x, goal, noise_of(12)).first_success for attack in attacks]
    counts = [int((first < 0).sum()) for first in found]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


def test_counts_a_pass_each_way_a_step_and_one(blocks, images):
    found = search(NewtonFool(steps=3, eta=1e-4), blocks, images, ONES, noise_of(8))
    assert found.forward.tolist() == [4] * 8
    assert found.backward.tolist() == [3] * 8


def test_refuses_a_goal_that_is_one_class(blocks, images):
    with pytest.raises(ValueError, match="targeted goal: expected one that leads away"):
        search(NewtonFool(), blocks, images, Targeted(ONES.aim), noise_of(8))


@pytest.mark.parametrize("eta", [-0.1, float("nan"), float("inf")])
def test_refuses_a_share_that_is_none(eta):
    with pytest.raises(ValueError, match=r"eta=.*: expected a number"):
        NewtonFool(eta=eta)
