import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import Pixle, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l0_distance
from bezoar.seeds import Noise

NOISE = Noise.first(0, "tests", np.arange(30))
X = torch.rand(30, 3, 9, 12, generator=torch.Generator().manual_seed(0))
NAMES = (torch.arange(9 * 12.0).reshape(1, 1, 9, 12) / 108).repeat(30, 1, 1, 1)
LAYER = nn.Linear(3 * 9 * 12, 3, bias=False)
LAYER.weight.data = torch.randn(3, 3 * 9 * 12, generator=torch.Generator().manual_seed(1))
MODEL = nn.Sequential(nn.Flatten(), LAYER).requires_grad_(False)
GOAL = Untargeted(MODEL(X).argmax(dim=1))


def walked(attack, model=MODEL, x=X, goal=GOAL):
    """The states of a search, and the images that it asked about."""
    asked = []

    class Watched(nn.Module):
        def forward(self, images):
            asked.append(images.clone())
            return model(images)

    oracle = Answers(Watched(), attack, x, goal)
    states = [attack.start(x, oracle, NOISE)]
    for _ in range(attack.steps):
        states.append(attack.step(states[-1], oracle))
    return states, asked


def constant(images):
    """Scores that no image changes: every query starts from the clean one."""
    return torch.zeros(len(images), 2)


def test_every_pixel_has_the_colour_of_one_of_the_clean_image():
    x_adv = perturb(Pixle(steps=30), MODEL, X, GOAL, NOISE).x_adv
    assert (x_adv != X).any()
    same = x_adv.flatten(2).unsqueeze(3) == X.flatten(2).unsqueeze(2)
    assert same.all(dim=1).any(dim=2).all()


def test_what_is_copied_is_a_window_of_a_size_that_was_asked_for():
    goal = Untargeted(torch.zeros(30, dtype=torch.int64))
    _, asked = walked(Pixle(steps=20, least=2, most=4), constant, NAMES, goal)
    tried = torch.stack(asked[1:]).flatten(0, 1)
    clean = NAMES.repeat(20, 1, 1, 1)
    moved = [names[there] for names, there in zip(tried, tried != clean, strict=True)]
    sizes = []
    for names in moved:
        places = (names * 108).round().long()
        rows, columns = places // 12, places % 12
        sizes.append((rows.max() - rows.min() + 1, columns.max() - columns.min() + 1))
    sizes = torch.tensor(sizes)
    assert sizes.max(dim=0).values.tolist() == [4, 4]
    # Where copies lie on one another or at home, the window looks smaller than it is.
    assert sizes.float().mean() > 2.5
    counts = (tried != clean).flatten(1).sum(dim=1)
    assert counts.max() <= 16
    assert (counts >= 3).float().mean() > 0.9


def test_copies_come_to_lie_anywhere():
    goal = Untargeted(torch.zeros(30, dtype=torch.int64))
    _, asked = walked(Pixle(steps=40), constant, NAMES, goal)
    hits = (torch.stack(asked[1:]) != NAMES).float().mean(dim=(0, 1, 2))
    assert hits.min() > 0.1
    assert hits.std() / hits.mean() < 0.15


def test_keeps_the_best_and_goes_on_from_it_after_every_round():
    states, asked = walked(Pixle(steps=12, tries=4))
    losses = torch.stack([cross_entropy(MODEL(images), GOAL) for images in asked])
    for age, state in enumerate(states):
        torch.testing.assert_close(state.value, losses[: age + 1].amax(dim=0))
        torch.testing.assert_close(cross_entropy(MODEL(state.top), GOAL), state.value)
    for age in range(12):
        assert torch.equal(states[age + 1].x_adv, states[age // 4 * 4].top)


def test_more_queries_are_never_worse():
    last = torch.full((30,), -torch.inf)
    for steps in (1, 5, 25):
        x_adv = perturb(Pixle(steps=steps, tries=5), MODEL, X, GOAL, NOISE).x_adv
        loss = cross_entropy(MODEL(x_adv), GOAL)
        assert (loss >= last).all()
        last = loss


@pytest.mark.parametrize("eps", [9, 20, 60])
def test_changes_no_more_values_than_eps(eps):
    x_adv = perturb(Pixle(eps=eps, steps=30, tries=2, most=5), MODEL, X, GOAL, NOISE).x_adv
    assert eps / 2 < l0_distance(x_adv, X).max() <= eps


def test_leads_to_a_class_too():
    goal = Targeted(torch.full((30,), 2))
    before = MODEL(X).softmax(dim=1)[:, 2]
    x_adv = search(Pixle(steps=60), MODEL, X, goal, NOISE).x_adv
    after = MODEL(x_adv).softmax(dim=1)[:, 2]
    assert (after >= before).all()
    assert after.mean() > before.mean() + 0.2


def test_asks_for_scores_only_and_counts_them():
    found = perturb(Pixle(steps=7), MODEL, X, GOAL, NOISE)
    assert found.forward.tolist() == [8] * 30
    assert found.backward.tolist() == [0] * 30


@pytest.mark.parametrize(("least", "most"), [(0, 3), (4, 3)])
def test_refuses_a_window_that_is_none(least, most):
    with pytest.raises(ValueError, match="expected an integer >="):
        Pixle(least=least, most=most)
