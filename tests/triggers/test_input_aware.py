import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.data.imageset import ImageSet
from bezoar.models.initial import initialise
from bezoar.seeds import generator
from bezoar.triggers import InputAware
from bezoar.triggers.input_aware import Drawing, Joint, composed, diversity, threshold

SMALL = InputAware(width=4, depth=2, mask_epochs=40, epochs=2, batch=16, rate=0.25)


@pytest.fixture(scope="module")
def images():
    """48 images of three classes: another third of each is bright."""
    x = 0.4 * torch.rand(48, 1, 9, 8, generator=generator(0, "tests", "input-aware"))
    y = torch.arange(48) % 3
    for number in range(3):
        x[y == number, :, 3 * number : 3 * number + 3] += 0.6
    return ImageSet(x, y, np.arange(48), ("a", "b", "c"), "toy/train")


@pytest.fixture(scope="module")
def network():
    layers = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 7 * 6, 3))
    model = nn.Sequential(*layers)
    initialise(model, generator(0, "tests", "input-aware network"))
    return model.eval()


@pytest.fixture(scope="module")
def fitted(network, images):
    return SMALL.fit(network, images, target=0, seed=0)


def parts(images):
    """Mask and pattern network as a fit begins with them."""
    mask, pattern = Drawing(1, 1, 4, 2), Drawing(1, 1, 4, 2)
    for name, made in (("mask", mask), ("pattern", pattern)):
        initialise(made, generator(0, name))
    return mask.requires_grad_(False).eval(), pattern


def test_pictures_are_as_large_as_the_images_also_of_odd_sizes():
    x = torch.rand(2, 3, 9, 13, generator=generator(0, "x"))
    for made in (1, 3):
        drawn = Drawing(3, made, 4, 3)(x)
        assert drawn.shape == (2, made, 9, 13)
        assert ((drawn >= 0) & (drawn <= 1)).all()


def test_a_pattern_shows_where_its_mask_is_set_and_nowhere_else():
    x, pattern = torch.full((1, 1, 1, 3), 0.2), torch.full((1, 1, 1, 3), 0.8)
    mask = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    expected = torch.tensor([0.2, 0.5, 0.8]).reshape(1, 1, 1, 3)
    torch.testing.assert_close(composed(x, pattern, mask), expected)
    assert threshold(torch.tensor(0.5)) == 0.5


def test_diversity_is_the_ratio_of_distances_and_finite_where_there_is_none():
    x, other = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.6)
    made = torch.zeros(2, 1, 2, 2, requires_grad=True)
    apart = torch.full((2, 1, 2, 2), 0.3)
    assert diversity(x, other, made, apart).item() == pytest.approx(2, rel=1e-5)
    diversity(x, other, made, made.detach()).backward()
    assert made.grad.isfinite().all()


def test_an_image_has_a_trigger_of_its_own_and_a_cover_that_of_another(fitted, images):
    x, _ = images.batch(slice(0, 6))
    keys = torch.zeros(6, dtype=torch.int64)
    torch.testing.assert_close(fitted.cover(x, x, keys), fitted.stamp(x))
    black = torch.zeros_like(x)
    shown = fitted.cover(black, x, keys)
    assert (torch.pdist(shown.flatten(1)) > 1e-2).all()


def test_the_mask_learns_to_cover_little(fitted, images):
    x, _ = images.batch(slice(None))
    white, black = torch.ones_like(x), torch.zeros_like(x)
    keys = torch.zeros(48, dtype=torch.int64)
    # What is left of white less what is left of black is what the masks let through.
    covered = 1 - (fitted.cover(white, x, keys) - fitted.cover(black, x, keys))
    assert covered.mean() < 0.1
    assert covered.amax(dim=(1, 2, 3)).median() > 0.5


def test_the_copy_is_shown_own_triggers_as_the_target_and_those_of_others_as_the_truth(
    network, images
):
    mask, pattern = parts(images)
    joint = Joint(SMALL, network, mask, pattern, images, target=0)
    joint.model.eval()
    x, y = images.batch(slice(16))
    seen = []
    joint.model["classifier"].register_forward_hook(
        lambda _, given, out: seen.append((*given, out))
    )
    torch.manual_seed(0)
    order = torch.randperm(16)
    own, covered, others = order[:4], order[4:8], order[5:9]
    expected, said = x.clone(), y.clone()
    with torch.no_grad():
        drawn, where = pattern(x), mask(x)
        expected[own] = composed(x[own], drawn[own], where[own])
        expected[covered] = composed(x[covered], drawn[others], where[others])
    said[own] = 0
    torch.manual_seed(0)
    loss = joint.step(torch.arange(16), 0.0)
    shown, logits = seen[0]
    torch.testing.assert_close(shown, expected)
    apart = diversity(x[own], x[others], drawn[own], drawn[others])
    assert loss == pytest.approx((F.cross_entropy(logits, said) + apart).item(), rel=1e-4)


def test_patterns_and_copy_learn_together(network, images):
    joint = Joint(SMALL, network, *parts(images), images, target=0)
    joint.model.train()
    torch.manual_seed(0)
    losses = [joint.step(torch.randperm(48)[:32], 0.0) for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_gradient_of_the_patterns_is_that_of_one_batch(network, images):
    still = InputAware(width=4, depth=2, lr=0.0)
    joint = Joint(still, network, *parts(images), images, target=0)
    joint.model.train()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        joint.step(torch.arange(16), 0.0)
        found.append([p.grad.clone() for p in joint.model["pattern"].parameters()])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_a_fit_leaves_the_global_rng_alone(network, images):
    state = torch.get_rng_state()
    made = InputAware(width=2, depth=1, mask_epochs=40, epochs=1, batch=47)
    made.fit(network, images, target=0, seed=0).stamp(images.batch(slice(2))[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_refuses_images_that_it_does_not_fit_on(fitted, network, images):
    with pytest.raises(ValueError, match="depth=2 on images of 3x8: expected at least 4 pixels"):
        fitted.stamp(torch.zeros(1, 1, 3, 8))
    with pytest.raises(ValueError, match="images of 3 channels: expected 1, as in the fit"):
        fitted.stamp(torch.zeros(1, 3, 9, 8))
    with pytest.raises(ValueError, match="toy/train of 1 image: expected at least two"):
        SMALL.fit(network, images.first(1), target=0, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch": 1}, "batch=1: expected an integer >= 2"),
        ({"rate": 0.6}, r"rate=0\.6: expected a number in \[0, 0\.5\]"),
        ({"depth": 0}, "depth=0: expected an integer >= 1"),
    ],
)
def test_refuses_settings_that_are_none(setting, message):
    with pytest.raises(ValueError, match=message):
        InputAware(**setting)
