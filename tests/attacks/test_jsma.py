from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import JSMA, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.jsma import salient_pair
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l0_distance
from bezoar.seeds import Noise, generator


def noise_of(count, draw=0):
    return Noise(0, "tests", np.arange(count), np.full(count, draw))


def products(a, b):
    """All pairs' products, 0 where one is not admissible."""
    first, second = a[:, None] + a, b[:, None] + b
    product = torch.where((first > 0) & (second > 0), first * second, 0)
    return product.triu(diagonal=1)


def drawn(name, count, size):
    return torch.randn(count, size, generator=generator(0, "tests", "jsma", name))


class TestSalientPair:
    """The search looks at few pairs and finds what a search through all of them finds."""

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (drawn("a", 40, 30), drawn("b", 40, 30)),
            (drawn("a", 40, 30).round(), drawn("b", 40, 30).round()),  # with ties
            (drawn("a", 40, 30), 3 - drawn("a", 40, 30)),  # none beats another
            (drawn("a", 40, 30), drawn("a", 40, 30)),  # each beats the next
            (drawn("a", 40, 30) - 2, drawn("b", 40, 30) - 2),  # pairs of one that gains, one not
            (drawn("a", 40, 2), drawn("b", 40, 2)),
        ],
    )
    @pytest.mark.parametrize("share", [0.0, 0.7])
    def test_finds_the_best_of_all_pairs(self, a, b, share):
        barred = torch.rand(a.shape, generator=generator(0, "tests", "barred")) < share
        a, b = (torch.where(barred, -torch.inf, t) for t in (a, b))
        pair, product = salient_pair(a, b)
        whole = torch.stack([products(*row) for row in zip(a, b, strict=True)])
        torch.testing.assert_close(product, whole.flatten(1).amax(dim=1))
        found = product > 0
        low, high = pair[found].sort(dim=1).values.unbind(dim=1)
        torch.testing.assert_close(whole[found, low, high], product[found])
        assert (low < high).all()

    def test_finds_it_among_the_pairs_of_thousands_of_values(self):
        a, b = drawn("a", 2, 3072), drawn("b", 2, 3072)
        _, product = salient_pair(a, b)
        whole = torch.stack([products(*row).max() for row in zip(a, b, strict=True)])
        torch.testing.assert_close(product, whole)

    def test_one_value_makes_no_pair(self):
        pair, product = salient_pair(torch.ones(3, 1), torch.ones(3, 1))
        assert pair.shape == (3, 2)
        assert product.tolist() == [0, 0, 0]


# One logit and its opposite: a saliency is the square of a sum of two weights, so the pairs go by
# weight. In a black image each value gains its whole weight. The first is of no help, and holds
# how much the others must gain: half a unit less than the heaviest k, for image k of 8.
WEIGHT = torch.tensor([-40.0, 8.0, -1.0, 2.0, 7.0, 4.0, -5.0, 1.0, 6.0, 5.0, 3.0, -2.0])
NEED = torch.tensor([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]).cumsum(dim=0) - 0.5
ZEROS = torch.zeros(8, dtype=torch.int64)


class Mirror(nn.Module):
    def forward(self, x):
        return 1 - x


@pytest.fixture
def opposites():
    layer = nn.Linear(12, 2, bias=False)
    layer.weight.data = torch.stack([-WEIGHT, WEIGHT])
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


@pytest.fixture
def black():
    x = torch.zeros(8, 12)
    x[:, 0] = NEED / 40
    return x.reshape(8, 1, 3, 4)


# Weaker than the attacks of test_nearest.py: it moves values in twos, to the end of the box, and
# one that has moved never comes back.
def test_changes_the_fewest_values_up_to_a_pair(opposites, black):
    found = search(JSMA(), opposites, black, Untargeted(ZEROS), noise_of(8))
    assert l0_distance(found.x_adv, black).tolist() == [2, 2, 4, 4, 6, 6, 8, 8]
    assert (found.first_success >= 0).all()


def test_darkens_as_it_brightens(opposites, black):
    mirrored = nn.Sequential(Mirror(), opposites)
    bright = search(JSMA(), opposites, black, Untargeted(ZEROS), noise_of(8)).x_adv
    dark = search(JSMA(theta=-1.0), mirrored, 1 - black, Untargeted(ZEROS), noise_of(8)).x_adv
    torch.testing.assert_close(dark, 1 - bright)


@pytest.mark.parametrize(("eps", "fooled"), [(1, 0), (2, 2), (5, 4), (6, 6), (7.9, 6), (8, 8)])
def test_the_budget_is_a_number_of_values(eps, fooled, opposites, black):
    found = search(JSMA(eps=eps), opposites, black, Untargeted(ZEROS), noise_of(8))
    assert (found.first_success >= 0).tolist() == [True] * fooled + [False] * (8 - fooled)
    assert l0_distance(found.x_adv, black).max() <= eps


def test_small_steps_move_the_same_pair_until_it_is_at_the_end(opposites, black):
    walked = perturb(JSMA(theta=0.25, steps=5), opposites, black, Untargeted(ZEROS), noise_of(8))
    last = walked.x_adv[7].flatten()
    assert last[[1, 4]].tolist() == [1.0, 1.0]  # after four steps
    assert last[[8, 9]].tolist() == [0.25, 0.25]


def test_ends_at_the_first_image_that_fools(opposites, black):
    walked = perturb(JSMA(steps=6), opposites, black, Untargeted(ZEROS), noise_of(8))
    assert l0_distance(walked.x_adv, black).tolist() == [2, 2, 4, 4, 6, 6, 8, 8]


def by_the_paper(model, image, target, theta, steps):
    """Algorithms 2 and 3 for one image, by the whole Jacobian and a search through all pairs."""
    x, sign = image.clone(), 1 if theta > 0 else -1
    domain = set(range(x.numel()))
    while model(x[None]).argmax() != target and steps and domain:
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x).flatten(1)
        domain -= {i for i in domain if x.flatten()[i] == (1 if theta > 0 else 0)}
        best, chosen = 0.0, None
        for p, q in combinations(sorted(domain), 2):
            alpha = jacobian[target, [p, q]].sum()
            beta = jacobian[:, [p, q]].sum() - alpha
            if sign * alpha > 0 and sign * beta < 0 and -alpha * beta > best:
                best, chosen = -alpha * beta, [p, q]
        if chosen is None:
            return x
        x.view(-1)[chosen] = (x.view(-1)[chosen] + theta).clamp(0, 1)
        steps -= 1
    return x


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
def test_is_the_loop_of_the_paper(theta, convnet, batch):
    model, x = convnet.double().requires_grad_(False), batch[0].double()
    target = model(x).argmin(dim=1)
    walked = perturb(JSMA(theta=theta, steps=5), model, x, Targeted(target), noise_of(12))
    expected = [
        by_the_paper(model, image, int(t), theta, 5) for image, t in zip(x, target, strict=True)
    ]
    torch.testing.assert_close(walked.x_adv, torch.stack(expected))
    assert (l0_distance(walked.x_adv, x) > 2).any()


def test_towards_a_class_it_ends_there(blocks, images):
    towards = Targeted(torch.zeros(8, dtype=torch.int64))
    found = search(JSMA(), blocks, images, towards, noise_of(8))
    fooled = found.first_success >= 0
    assert fooled.any()
    assert torch.equal(blocks(found.x_adv).argmax(dim=1) == 0, fooled)


def test_each_start_leads_to_the_next_rival_of_an_open_goal(blocks, images):
    oracle = Answers(blocks, JSMA(), images, Untargeted(ZEROS + 1))
    targets = [JSMA().start(images, oracle, noise_of(8, draw)).target for draw in range(3)]
    assert [set(t.tolist()) for t in targets] == [{0}, {2}, {0}]


def test_more_steps_never_leave_more_standing(convnet, batch):
    x = batch[0]
    goal = Untargeted(convnet(x).argmax(dim=1))
    counts = [
        int(
            (
                search(JSMA(steps=n, theta=0.2), convnet, x, goal, noise_of(12)).first_success < 0
            ).sum()
        )
        for n in (1, 3, 9, 27)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


def test_counts_two_passes_each_way_a_step(blocks, images):
    walked = perturb(JSMA(steps=3), blocks, images, Untargeted(ZEROS + 1), noise_of(8))
    assert walked.forward.tolist() == [1 + 2 * 3] * 8
    assert walked.backward.tolist() == [2 * 3] * 8


@pytest.mark.parametrize("theta", [0.0, 1.5, -2.0, float("nan")])
def test_refuses_a_change_that_is_none(theta):
    with pytest.raises(ValueError, match=r"theta=.*: expected a"):
        JSMA(theta=theta)
