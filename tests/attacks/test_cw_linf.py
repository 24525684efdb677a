"""Carlini and Wagner in Linf: the paper's loop, image by image."""

import numpy as np
import pytest
import torch

from bezoar.attacks import CWLinf, Untargeted
from bezoar.attacks.oracle import Answers
from bezoar.geometry import linf_distance
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


def minimised(model, image, label, start, *, c, tau, steps, lr):
    """Adam with one c and tau: the points it asks about, and whether the last one is a solution."""
    x_adv = start.clone().requires_grad_()
    adam = torch.optim.Adam([x_adv], lr=lr)
    points = []
    for step in range(steps + 1):
        change = x_adv - image
        logits = model(x_adv)[0]
        lead = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
        if (lead < 0 and change.abs().max() <= tau) or step == steps:
            break
        points.append(x_adv.detach().clone())
        adam.zero_grad()
        (c * lead.clamp(min=0) + (change.abs() - tau).clamp(min=0).sum()).backward()
        adam.step()
        x_adv.data.clamp_(0, 1)
    solved = bool(lead < 0 and change.abs().max() <= tau)
    return points, x_adv.detach(), change.abs().max().item(), solved


def alone(model, image, label, *, steps, iterations, c, lr):
    """Section VI.C on one image, for so many steps."""
    x_adv, tau, points = image, 1.0, []
    while len(points) < steps:
        asked, x_adv, largest, solved = minimised(
            model, image, label, x_adv, c=c, tau=tau, steps=iterations, lr=lr
        )
        points += asked
        tau, c = (0.9 * largest, c) if solved else (tau, 2 * c)
    return torch.cat(points[:steps])


def test_is_the_loop_of_the_paper(convnet, batch):
    model, x = convnet.double().requires_grad_(False), batch[0].double()
    y = model(x).argmax(dim=1)
    attack = CWLinf(steps=60, iterations=7, lr=0.1, c=0.5)
    oracle = Answers(model, attack, x, Untargeted(y), keep="nearest")
    states = [attack.start(x, oracle, NOISE)]
    for _ in range(59):
        states.append(attack.step(states[-1], oracle))
    walked = torch.stack([attack.best(state) for state in states], dim=1)
    for i in range(4):
        expected = alone(model, x[i : i + 1], y[i], steps=60, iterations=7, c=0.5, lr=0.1)
        torch.testing.assert_close(walked[i], expected)


def test_tau_follows_the_largest_change_that_fools(blocks, images):
    attack = CWLinf(steps=60, iterations=20)
    oracle = Answers(blocks, attack, images, ONES)
    state = attack.start(images, oracle, NOISE)
    for _ in range(60):
        after = attack.step(state, oracle)
        largest = linf_distance(attack.best(state), images)
        before, tau = (s.tau.flatten() for s in (state, after))
        solved = oracle.fooled & (largest <= before)
        torch.testing.assert_close(tau, torch.where(solved, 0.9 * largest, before))
        state = after
    assert (state.tau < 0.5).all()


def test_where_nothing_fools_the_weight_doubles(blocks, images):
    blocks[1].bias = torch.nn.Parameter(torch.tensor([0.0, 1e3, 0.0]), requires_grad=False)
    attack = CWLinf(steps=21, iterations=5, c=0.25)
    oracle = Answers(blocks, attack, images, ONES)
    state = attack.start(images, oracle, NOISE)
    for _ in range(21):
        state = attack.step(state, oracle)
    assert state.c.flatten().tolist() == [0.25 * 2**4] * 8
    assert state.tau.flatten().tolist() == [1.0] * 8


@pytest.mark.parametrize("iterations", [0, -1, 2.0])
def test_refuses_a_number_of_iterations_that_is_none(iterations):
    with pytest.raises(ValueError, match=rf"iterations={iterations}: expected an integer >= 1"):
        CWLinf(iterations=iterations)
