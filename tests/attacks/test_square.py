from itertools import pairwise

import numpy as np
import pytest
import torch

from bezoar.attacks import Square, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.oracle import Answers
from bezoar.seeds import Noise

ONES = Untargeted(torch.ones(8, dtype=torch.int64))


def noise_of(count, seed=0):
    return Noise.first(seed, "tests", np.arange(count))


def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(blocks, images):
    found = search(Square(eps=0.1, steps=400), blocks, images, ONES, noise_of(8))
    standing = (blocks(found.x_adv).argmax(dim=1) == 1).tolist()
    assert standing == [False] * 4 + [True] * 4
    assert found.backward.tolist() == [0] * 8
    assert found.forward[4:].tolist() == [401] * 4  # and one that judges the best


def test_asks_for_no_gradient(blocks, images):
    class Blind(torch.nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return blocks(x)

    perturb(Square(eps=0.1, steps=5), Blind(), images, ONES, noise_of(8))


def walked(attack, blocks, images):
    """The states of a search, one after each query."""
    oracle = Answers(blocks, attack, images, ONES)
    states = [attack.start(images, oracle, noise_of(8))]
    for _ in range(attack.steps):
        states.append(attack.step(states[-1], oracle))
    return states


def test_starts_with_stripes_at_the_border(blocks, images):
    state = walked(Square(eps=0.05, steps=1), blocks, images)[1]
    change = state.x_adv - images
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.05))
    assert (change.std(dim=2) < 1e-6).all()


def test_keeps_what_raises_the_margin_and_nothing_else(blocks, images):
    states = walked(Square(eps=0.05, steps=60), blocks, images)
    values = torch.stack([state.value for state in states])
    assert (values.diff(dim=0) >= 0).all()
    for before, after in pairwise(states[1:]):
        moved = (after.x_adv != before.x_adv).flatten(1).any(dim=1)
        assert torch.equal(moved, after.value > before.value)


@pytest.mark.parametrize(("asked", "share"), [(1, 0.8), (11, 0.4), (51, 0.2), (8001, 0.8 / 512)])
def test_windows_shrink_on_schedule(asked, share, blocks):
    attack = Square(eps=0.1, steps=10_000)
    x = torch.full((200, 3, 40, 40), 0.5)
    state = attack.start(x, None, noise_of(200))._replace(age=torch.full((200,), asked))
    inside, raised = attack._window(state)
    side = max(1, round((share * 1600) ** 0.5))
    assert (inside.sum(dim=(1, 2, 3)) == side * side).all()
    assert inside.flatten(1).any(dim=0).float().mean() > 0.3  # they are all over the image
    assert raised.shape == (200, 3, 1, 1)
    assert abs(raised.float().mean() - 0.5) < 0.1


def test_the_schedule_is_that_of_its_own_number_of_queries():
    x = torch.full((1, 1, 40, 40), 0.5)
    short, long = Square(steps=100), Square(steps=10_000)
    for age in (0, 3, 30, 90):
        of_short = short.start(x, None, noise_of(1))._replace(age=torch.tensor([age]))
        of_long = of_short._replace(age=torch.tensor([100 * age]))
        assert short._window(of_short)[0].sum() == long._window(of_long)[0].sum()


def test_a_query_always_changes_something(blocks, images):
    asked = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            asked.append(x.clone())
            return blocks(x)

    attack = Square(eps=0.05, steps=60)
    states = walked(attack, Watched(), images)
    for state, point in zip(states[1:], asked[1:], strict=False):
        assert (point != state.x_adv).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_refuses_a_share_that_is_none(p):
    with pytest.raises(ValueError, match=r"p=.*: expected a number in"):
        Square(p=p)
