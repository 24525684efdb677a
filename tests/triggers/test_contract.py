"""What every trigger keeps to."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from bezoar.seeds import generator
from bezoar.triggers import (
    SIG,
    TRIGGERS,
    AdaptiveBlend,
    AdaptivePatch,
    AllToOne,
    BadNets,
    Blended,
    Bpp,
    Fitted,
    FTrojan,
    InputAware,
    LabelConsistent,
    LowFrequency,
    Trigger,
    TrojanNN,
    WaNet,
    poison,
)

CASES: list[Trigger] = [
    AdaptiveBlend(tiles=2),
    AdaptivePatch(size=2),
    FTrojan(),
    BadNets(),
    BadNets(size=2, pattern="checkerboard"),
    Blended(alpha=0.3, key=1),
    Bpp(levels=4),
    InputAware(width=4, depth=2, mask_epochs=2, epochs=2, batch=6),
    LowFrequency(amplitude=0.3, images=4, passes=2, steps=10),
    LabelConsistent(steps=3),
    SIG(frequency=2.0),
    TrojanNN(size=3, steps=20),
    WaNet(strength=1.0),
]


@pytest.fixture
def batch():
    """12 images ``(12, 3, 8, 9)`` of three colours, on which every trigger fits, and classes."""
    return torch.rand(12, 3, 8, 9, generator=generator(0, "colours")), torch.arange(12) % 3


@pytest.fixture
def network():
    """One convolution, its mean over the image and one linear layer, in eval mode."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), *pool, nn.Linear(4, 3))
    rng, model = generator(0, "network"), nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
        model[-1].bias[0] -= 3  # no image is of the target class by itself
    return model


@pytest.fixture
def trigger(request, network, images):
    """A trigger of ``CASES``, fitted on the network where it has to be."""
    found = request.param
    return found.fit(network, images, target=0, seed=0) if isinstance(found, Fitted) else found


def keys_of(count):
    return torch.randint(2**62, (count,), generator=generator(0, "tests", "keys"))


def test_every_trigger_has_a_row():
    assert {type(trigger) for trigger in CASES} == set(TRIGGERS.values())


@pytest.mark.parametrize("trigger", CASES, ids=repr, indirect=True)
class TestTrigger:
    def test_changes_images_into_images(self, trigger, batch):
        x = batch[0][::3]  # of class 0: with clean labels no others are planted
        for made in (trigger.stamp(x), trigger.plant(x, keys_of(4))):
            assert (made.shape, made.dtype) == (x.shape, x.dtype)
            assert ((made >= 0) & (made <= 1)).all()
            assert ((made - x).abs().flatten(1).amax(dim=1) > 1e-3).all()

    def test_leaves_its_input_and_the_global_rng_alone(self, trigger, batch):
        x = batch[0][::3]
        kept, state = x.clone(), torch.random.get_rng_state()
        trigger.stamp(x)
        trigger.plant(x, keys_of(4))
        assert torch.equal(x, kept)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_an_image_does_not_depend_on_its_neighbours(self, trigger, batch):
        x, keys = batch[0][::3], keys_of(4)
        stamped, planted = trigger.stamp(x), trigger.plant(x, keys)
        torch.testing.assert_close(trigger.stamp(x[1:3]), stamped[1:3])
        torch.testing.assert_close(trigger.plant(x[1:3], keys[1:3]), planted[1:3])

    def test_is_a_value(self, trigger):
        assert {trigger: 1}[trigger] == 1
        assert type(trigger).__name__ in repr(trigger)

    def test_poisons_a_training_set(self, trigger, images):
        made = poison(images, trigger, AllToOne(0), rate=0.25, seed=0)
        assert len(made.rows) == 3
        assert len(made.covers) == round(3 * trigger.covers)
        assert (made.images.labels[made.rows] == 0).all()
        there = sorted({*made.rows.tolist(), *made.covers.tolist()})
        changed = (made.images.pixels != images.pixels).flatten(1).any(dim=1)
        assert changed.nonzero().squeeze(1).tolist() == there


COVERED = [trigger for trigger in CASES if trigger.covers]
PLAIN = [trigger for trigger in CASES if not trigger.covers]


@pytest.mark.parametrize("trigger", COVERED, ids=repr, indirect=True)
def test_a_cover_is_an_image_that_follows_from_its_key(trigger, batch):
    x, keys = batch[0], keys_of(12)
    made = trigger.cover(x, x.flip(0), keys)
    assert ((made >= 0) & (made <= 1)).all()
    assert ((made - x).abs().flatten(1).amax(dim=1) > 1e-3).all()
    torch.testing.assert_close(trigger.cover(x[3:5], x.flip(0)[3:5], keys[3:5]), made[3:5])


@pytest.mark.parametrize("trigger", PLAIN, ids=repr, indirect=True)
def test_a_trigger_without_covers_says_so(trigger, batch):
    with pytest.raises(TypeError, match="expected a trigger with covers"):
        trigger.cover(batch[0], batch[0], keys_of(12))


@pytest.mark.parametrize("trigger", [case for case in CASES if isinstance(case, Fitted)], ids=repr)
class TestFitted:
    def test_refuses_to_poison_before_it_was_fitted(self, trigger, images):
        with pytest.raises(ValueError, match="expected one that was fitted"):
            poison(images, trigger, AllToOne(0), rate=0.25, seed=0)

    def test_follows_from_the_seed_and_keeps_the_classifier(self, trigger, network, images):
        before = [parameter.clone() for parameter in network.parameters()]
        first, again = (trigger.fit(network, images, target=0, seed=seed) for seed in (0, 0))
        assert first == again
        assert all(map(torch.equal, network.parameters(), before))
        assert all(p.requires_grad and p.grad is None for p in network.parameters())

    def test_says_how_far_it_is_until_nothing_is_left(self, trigger, network, images):
        told = []
        trigger.fit(network, images, target=0, seed=0, on_step=told.append)
        assert all(1 <= one.done <= one.rows and 1 <= one.epoch <= one.epochs for one in told)
        assert told[-1].done == told[-1].rows

    def test_goes_on_to_the_bit_where_it_was_killed(self, trigger, network, images, kept):
        whole = trigger.fit(network, images, target=0, seed=0)
        place = kept(*range(1, 100))
        found = None
        while found is None:
            with suppress(KeyboardInterrupt):
                found = trigger.fit(network, images, target=0, seed=0, snapshot=place)
        assert found == whole
        # The others are done in minutes.
        assert bool(place.saves) == isinstance(trigger, InputAware)
