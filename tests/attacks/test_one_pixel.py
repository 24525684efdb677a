import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import OnePixel, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.one_pixel import _painted, _three
from bezoar.attacks.oracle import Answers
from bezoar.geometry import l0_distance
from bezoar.seeds import Noise, hashed

ONES = Untargeted(torch.ones(8, dtype=torch.int64))
NOISE = Noise.first(0, "tests", np.arange(8))


def linear(size, classes):
    """A linear classifier of images, its weights from a generator of their own."""
    layer = nn.Linear(size, classes, bias=False)
    rng = torch.Generator().manual_seed(1)
    layer.weight.data = torch.randn(classes, size, generator=rng)
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


def lead_of_one_pixel(blocks, images):
    """The highest lead of another class over class 1 that one pixel of each image can give."""
    weight, logits, flat = blocks[1].weight, blocks(images), images.flatten(1)
    leads = []
    for k in (0, 2):
        w = weight[k] - weight[1]
        gain = torch.maximum(w * (1 - flat), -w * flat).amax(dim=1)
        leads.append(logits[:, k] - logits[:, 1] + gain)
    return torch.stack(leads).amax(dim=0)


def test_fools_an_affine_classifier_exactly_where_one_pixel_can(blocks, images):
    found = search(OnePixel(steps=20, population=60), blocks, images, ONES, NOISE)
    lead = lead_of_one_pixel(blocks, images)
    assert lead.abs().min() > 0.01
    assert torch.equal(found.first_success >= 0, lead > 0)
    assert 0 < (lead > 0).sum() < 8
    assert (l0_distance(found.x_adv, images) <= 1).all()


def test_finds_the_one_pixel_and_the_one_colour_that_count():
    class Lock(nn.Module):
        def forward(self, x):
            distance = (x[:, :, 5, 2] - torch.tensor([0.9, 0.1, 0.7])).square().sum(dim=1)
            return torch.stack([0.05 - distance, torch.zeros_like(distance)], dim=1)

    x = torch.full((4, 3, 8, 8), 0.4)
    goal = Targeted(torch.zeros(4, dtype=torch.int64))
    x_adv = search(OnePixel(steps=30), Lock(), x, goal, Noise.first(0, "tests", np.arange(4))).x_adv
    changed = (x_adv != x).any(dim=1).nonzero()
    assert changed.tolist() == [[i, 5, 2] for i in range(4)]


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_changes_no_more_pixels_than_it_says(pixels):
    model = linear(3 * 36, 3)
    x = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(dim=1))
    x_adv = perturb(OnePixel(pixels=pixels, steps=3, population=8), model, x, goal, NOISE).x_adv
    changed = (x_adv != x).any(dim=1).flatten(1).sum(dim=1)
    assert changed.max() == pixels
    assert l0_distance(x_adv, x).max() <= 3 * pixels


def test_an_image_counts_only_within_eps():
    model = linear(3 * 4, 2)
    x = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    attack = OnePixel(eps=2, steps=2, population=6)  # a pixel has three values
    assert torch.equal(perturb(attack, model, x, ONES, NOISE).x_adv, x)


def walked(attack, model, x, goal):
    oracle = Answers(model, attack, x, goal)
    states = [attack.start(x, oracle, NOISE)]
    for _ in range(attack.steps):
        states.append(attack.step(states[-1], oracle))
    return states


def generation(model, x, y, genes, value, draws):
    """The next generation of one image, candidate by candidate."""
    after = []
    for s, members in enumerate(torch.stack(_three(draws[None, :, :3], 7), dim=2)[0]):
        a, b, c = (genes[r] for r in members)
        child = a + 0.5 * (b - c)
        child = torch.where((child < 0) | (child > 1), draws[s, 3:].reshape(2, 3), child)
        image = x.clone()
        for row, column, colour in child.tolist():
            image[0, int(3 * row), int(4 * column)] = colour
        loss = cross_entropy(model(image[None]), Untargeted(y)).item()
        after.append(child if loss > value[s] else genes[s])
    return torch.stack(after)


def test_is_differential_evolution_image_by_image(blocks, images):
    states = walked(OnePixel(steps=4, population=7, pixels=2), blocks, images, ONES)
    for age in range(4):
        before = states[age]
        draws = hashed(before.key, torch.full((8,), age + 2), (7, 3 + 2 * 3))
        for i in range(8):
            own = (before.genes[i], before.value[i], draws[i])
            after = generation(blocks, images[i], ONES.aim[:1], *own)
            torch.testing.assert_close(states[age + 1].genes[i], after)


def test_no_candidate_ever_gets_worse(blocks, images):
    values = torch.stack([s.value for s in walked(OnePixel(population=9), blocks, images, ONES)])
    assert (values.diff(dim=0) >= 0).all()
    assert values[-1].mean() > values[0].mean()


@pytest.mark.parametrize("size", [3, 4, 10])
def test_three_members_are_different_and_all_alike_likely(size):
    draws = torch.rand(1, 30_000, 3, generator=torch.Generator().manual_seed(0))
    members = torch.stack(_three(draws, size), dim=2)[0]
    assert (members.sort(dim=1).values.diff(dim=1) > 0).all()
    expected = 30_000 / size
    for column in members.T:
        count = torch.bincount(column, minlength=size)
        assert len(count) == size
        assert ((count - expected).abs() < 5 * expected**0.5).all()
    pairs = torch.bincount(members[:, 1] * size + members[:, 2], minlength=size * size)
    expected = 30_000 / (size * (size - 1))
    different = pairs[~torch.eye(size, dtype=torch.bool).flatten()]
    assert ((different - expected).abs() < 5 * expected**0.5).all()


def test_places_reach_every_pixel_and_the_end_of_the_range():
    x = torch.zeros(1, 2, 3, 5)
    genes = torch.tensor([[[0.0, 0.0, 0.1, 0.2], [1.0, 1.0, 0.3, 0.4], [0.5, 0.79, 0.5, 0.6]]])
    painted = torch.zeros(1, 2, 3, 5)
    painted[0, :, 0, 0] = torch.tensor([0.1, 0.2])
    painted[0, :, 2, 4] = torch.tensor([0.3, 0.4])
    painted[0, :, 1, 3] = torch.tensor([0.5, 0.6])
    torch.testing.assert_close(_painted(x, genes), painted)


def test_asks_for_scores_only_and_counts_them(blocks, images):
    class Blind(nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            assert len(x) <= 256
            return blocks(x)

    found = perturb(OnePixel(steps=3, population=50), Blind(), images, ONES, NOISE)
    assert found.forward.tolist() == [4 * 50] * 8
    assert found.backward.tolist() == [0] * 8
