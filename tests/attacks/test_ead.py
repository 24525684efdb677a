"""EAD: the paper's loop, image by image, and what beta does."""

import numpy as np
import pytest
import torch

from bezoar.attacks import EAD, Untargeted
from bezoar.attacks.balance import next_weight
from bezoar.attacks.engine import shrink
from bezoar.attacks.oracle import Answers
from bezoar.geometry import DISTANCES
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


def alone(model, image, label, *, steps, c, beta, lr):
    """Algorithm 1 on one image with one c, value by value."""
    x = before = ahead = image
    points = []
    for k in range(steps):
        y = ahead.clone().requires_grad_()
        logits = model(y)[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        g = c * (logits[label] - others.max()).clamp(min=0) + (y - image).square().sum()
        z = ahead - lr * (1 - k / steps) ** 0.5 * torch.autograd.grad(g, y)[0]
        low, high = (z - beta).clamp(max=1), (z + beta).clamp(min=0)
        near = torch.where(z - image < -beta, high, image)
        x = torch.where(z - image > beta, low, near)
        ahead = (x + k / (k + 3) * (x - before)).clamp(0, 1)
        before = x
        points.append(x)
    return torch.cat(points)


def test_is_the_loop_of_the_paper(convnet, batch):
    model, x = convnet.double().requires_grad_(False), batch[0].double()
    y = model(x).argmax(dim=1)
    attack = EAD(steps=20, searches=1, c=3.0, beta=0.02, lr=0.1)
    oracle = Answers(model, attack, x, Untargeted(y), keep="nearest")
    states = [attack.start(x, oracle, NOISE)]
    for _ in range(20):
        states.append(attack.step(states[-1], oracle))
    walked = torch.stack([state.x_adv for state in states[1:]], dim=1)
    for i in range(6):
        expected = alone(model, x[i : i + 1], y[i], steps=20, c=3.0, beta=0.02, lr=0.1)
        torch.testing.assert_close(walked[i], expected)


def test_with_more_beta_it_changes_fewer_values_and_is_nearer_in_l1(blocks, images):
    few, much = (
        shrink(EAD(steps=180, c=0.1, beta=beta), blocks, images, ONES, NOISE).x_adv
        for beta in (0.0, 0.01)
    )
    assert (DISTANCES["l1"](much, images) < DISTANCES["l1"](few, images)).all()
    counts = [DISTANCES["l0"](x_adv, images) for x_adv in (much, few)]
    assert (counts[0] <= counts[1]).all()
    assert counts[0].sum() < counts[1].sum()


def test_each_search_begins_at_the_clean_image_with_the_next_weight(blocks, images):
    attack = EAD(steps=20, searches=2, c=100.0)
    oracle = Answers(blocks, attack, images, ONES)
    state = attack.start(images, oracle, NOISE)
    for _ in range(10):
        state = attack.step(state, oracle)
    assert state.fooled.all()
    fresh = EAD(steps=20, searches=2, c=50.0)
    expected = fresh.step(fresh.start(images, oracle, NOISE), oracle)
    torch.testing.assert_close(attack.step(state, oracle).x_adv, expected.x_adv)


def test_counts_its_passes(blocks, images):
    found = shrink(EAD(steps=18), blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [37] * 8
    assert found.backward.tolist() == [18] * 8


def test_the_next_weight_is_ten_times_as_much_until_one_fools_and_halves_the_interval_then():
    c, low, high, fooled, ended = (
        torch.tensor(row)
        for row in (
            [1.0, 1.0, 4.0, 6.0, 4.0],
            [0.0, 0.0, 2.0, 2.0, 2.0],
            [torch.inf, torch.inf, 8.0, 8.0, 8.0],
            [False, True, True, False, True],
            [True, True, True, True, False],
        )
    )
    c, low, high = next_weight(c, low, high, fooled, ended)
    assert c.tolist() == [10.0, 0.5, 3.0, 7.0, 4.0]
    assert low.tolist() == [1.0, 0.0, 2.0, 6.0, 2.0]
    assert high.tolist() == [torch.inf, 1.0, 4.0, 8.0, 8.0]


@pytest.mark.parametrize("beta", [-0.1, float("nan")])
def test_refuses_a_beta_that_is_none(beta):
    with pytest.raises(ValueError, match=rf"beta={beta!r}: expected a number at least 0"):
        EAD(beta=beta)
