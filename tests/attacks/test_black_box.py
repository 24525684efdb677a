"""The attacks that see scores only: that they do, and that what they estimate is the gradient."""

import numpy as np
import pytest
import torch

from bezoar.attacks import NES, SPSA, SimBA, Square, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.nes import Walk
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l2_distance
from bezoar.seeds import Noise, hashed_normal

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))
SCORES = [
    NES(eps=0.1, steps=20, samples=20),
    SPSA(eps=0.1, steps=20, samples=10),
    SimBA(eps=1.0, steps=40),
    Square(eps=0.1, steps=40),
]


@pytest.mark.parametrize("attack", SCORES, ids=repr)
def test_asks_for_scores_only(attack, blocks, images):
    class Blind(torch.nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return blocks(x)

    found = search(attack, Blind(), images, ONES, NOISE)
    assert found.backward.tolist() == [0] * 8
    assert (found.first_success >= 0).any()


@pytest.mark.parametrize("attack", SCORES[:2], ids=repr)
def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(attack, blocks, images):
    found = search(attack, blocks, images, ONES, NOISE)
    standing = (blocks(found.x_adv).argmax(dim=1) == 1).tolist()
    assert standing == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (NES(steps=3, samples=6), 3 * 7),
        (SPSA(steps=3, samples=6), 3 * 13),
        (SimBA(steps=3), 1 + 3 * 2),
    ],
    ids=repr,
)
def test_counts_its_queries(attack, passes, blocks, images):
    found = perturb(attack, blocks, images, ONES, NOISE)
    assert found.forward.tolist() == [passes] * 8


@pytest.mark.parametrize("attack", [NES(samples=2000, steps=1), SPSA(samples=1000, steps=1)])
def test_the_estimate_points_along_the_gradient(attack, blocks, images):
    oracle = Answers(blocks, attack, images, ONES)
    state = attack.step(attack.start(images, oracle, NOISE), oracle)
    gradient = blocks[1].weight[0] - blocks[1].weight[1]
    change = (state.x_adv - images).flatten(1)
    large = gradient.abs() >= 2  # small entries may be on either side of their noise
    agrees = (change[:, large].sign() == gradient[large].sign()).float().mean()
    assert agrees > 0.95


def test_nes_is_the_same_for_every_neighbour(blocks, images):
    attack = NES(eps=0.1, steps=1, samples=4)
    oracle = Answers(blocks, attack, images, ONES)
    whole = attack.step(attack.start(images, oracle, NOISE), oracle)
    alone = Answers(blocks, attack, images[2:3], Untargeted(ONES.aim[2:3]))
    one = attack.step(Walk(*(e[2:3] for e in attack.start(images, oracle, NOISE))), alone)
    torch.testing.assert_close(one.x_adv, whole.x_adv[2:3])


@pytest.mark.parametrize("samples", [0, 3, 51])
def test_nes_asks_in_pairs(samples):
    with pytest.raises(ValueError, match=f"samples={samples}: expected an"):
        NES(samples=samples)


class TestSimBA:
    def states(self, blocks, images, steps):
        attack = SimBA(steps=steps, step_size=0.1)
        oracle = Answers(blocks, attack, images, ONES)
        states = [attack.start(images, oracle, NOISE)]
        for _ in range(steps):
            states.append(attack.step(states[-1], oracle))
        return states

    def test_tries_every_value_once_and_keeps_what_helps(self, blocks, images):
        states = self.states(blocks, images, 12)
        gradient = (blocks[1].weight[0] - blocks[1].weight[1]).reshape(1, 3, 4)
        change = states[-1].x_adv - images
        # Towards class 0, the nearer one, each value moves by one step along its gradient; where
        # it has none, the margin to class 0 cannot rise.
        moved = 0.1 * gradient.sign()
        clear = (gradient != 0).expand_as(change)
        torch.testing.assert_close(change[clear], moved.expand_as(change)[clear])
        assert sorted(states[0].order[0].tolist()) == list(range(12))

    def test_the_margin_never_falls_and_the_change_is_bounded(self, blocks, images):
        states = self.states(blocks, images, 9)
        values = torch.stack([state.value for state in states])
        assert (values.diff(dim=0) >= 0).all()
        assert (l2_distance(states[-1].x_adv, images) <= 0.1 * 3 + 1e-6).all()


def test_normal_noise_is_normal():
    keys = Noise.first(0, "tests", np.arange(50)).keys()
    draws = hashed_normal(keys, torch.zeros_like(keys), (4, 10, 10)).double().flatten()
    assert abs(draws.mean()) < 4.5 / np.sqrt(len(draws))
    assert abs(draws.var() - 1) < 4.5 * np.sqrt(2 / len(draws))
    inside = [(draws.abs() < bound).double().mean().item() for bound in (0.6745, 1.96)]
    assert inside == pytest.approx([0.5, 0.95], abs=0.015)
    assert torch.isfinite(draws).all()
