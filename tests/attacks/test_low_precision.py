"""A cheaper network is searched first; only what fools the classifier itself counts."""

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import PGD, Untargeted
from bezoar.attacks.apgd import APGD
from bezoar.attacks.autoattack import AutoAttack
from bezoar.attacks.engine import search
from bezoar.classifier import Lowered, prepare
from bezoar.data.imageset import ImageSet
from bezoar.referee import measure
from bezoar.seeds import Noise

ONES = torch.ones(8, dtype=torch.int64)
PGD12 = PGD(eps=0.1, steps=12)
AUTO = AutoAttack(eps=0.1, steps=5, targets=2, queries=20)


def noise_of(count):
    return Noise.first(0, "tests", np.arange(count))


class Gullible(nn.Module):
    """Says class 0 to everything, with a gradient."""

    def forward(self, x):
        return torch.stack([x.flatten(1).sum(dim=1) + 9, *[0 * x[:, 0, 0, 0]] * 2], dim=1)


@pytest.mark.parametrize("attack", [PGD12, AUTO], ids=["pgd", "autoattack"])
def test_what_does_not_fool_the_classifier_is_attacked_again(attack, blocks, images):
    plain = search(attack, blocks, images, Untargeted(ONES), noise_of(8))
    found = search(attack, blocks, images, Untargeted(ONES), noise_of(8), low=Gullible())
    assert torch.equal(found.x_adv, plain.x_adv)
    assert torch.equal(found.first_success >= 0, plain.first_success >= 0)
    # The stand-in was asked once, or for the start of APGD's first part, and the classifier once.
    assert torch.equal(found.forward, plain.forward + 2)


def test_what_fools_it_is_taken_and_costs_one_pass_more(blocks, images):
    goal = Untargeted(ONES)
    plain = search(PGD12, blocks, images, goal, noise_of(8))
    found = search(PGD12, blocks, images, goal, noise_of(8), low=prepare(blocks))
    fooled = plain.first_success >= 0
    assert fooled.any()
    assert not fooled.all()
    assert torch.equal(found.x_adv[fooled], plain.x_adv[fooled])
    assert torch.equal(found.first_success, plain.first_success)
    assert torch.equal(found.forward[fooled], plain.forward[fooled] + 1)
    assert torch.equal(found.forward[~fooled], 2 * plain.forward[~fooled])
    assert torch.equal(found.backward[~fooled], 2 * plain.backward[~fooled])


def test_the_steps_of_the_first_search_count(blocks, images):
    class Slow(nn.Module):
        def forward(self, x):
            return blocks(x) + torch.tensor([-100.0, 0, 0])

    found = search(PGD12, blocks, images, Untargeted(ONES), noise_of(8), low=Slow())
    fooled = found.first_success[found.first_success >= 0]
    assert len(fooled)
    assert (fooled >= PGD12.steps).all()


@pytest.mark.parametrize("stop", [1, 4, 9, 14, 30])
def test_goes_on_to_the_bit_after_an_interruption(stop, blocks, images, kept):
    whole = search(AUTO, blocks, images, Untargeted(ONES), noise_of(8), low=Lowered(blocks))
    place = kept(stop)

    def again():
        return search(
            AUTO,
            blocks,
            images,
            Untargeted(ONES),
            noise_of(8),
            low=Lowered(blocks),
            snapshot=place,
            snapshot_seconds=0,
        )

    with pytest.raises(KeyboardInterrupt):
        again()
    found = again()
    for name, value in vars(whole).items():
        assert torch.equal(getattr(found, name), value), name


def test_the_copy_answers_in_float32_and_nearly_the_same(small_convnet, batch):
    x, _ = batch
    low, point = Lowered(small_convnet), x.clone().requires_grad_()
    logits = low(point)
    exact = small_convnet(x)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)
    (slope,) = torch.autograd.grad(logits[:, 0].sum(), point)
    assert slope.dtype == torch.float32


def test_a_measurement_says_so_and_counts_what_float32_says(blocks, images):
    tested = ImageSet(images, ONES, np.arange(8), ("a", "b", "c"), "tested")
    attack = APGD(eps=0.1, steps=5)
    plain = measure(attack, blocks, tested, seed=0)
    low = measure(attack, blocks, tested, seed=0, low_precision=True)
    assert low.stamp.as_dict()["low"] == "bfloat16"
    assert "low" not in plain.stamp.as_dict()
    assert low.facts.robust_accuracy.value <= plain.facts.robust_accuracy.value < 1
    stands = low.facts.adversarial == 1
    assert stands.any()
    assert (low.facts.forward[stands] > plain.facts.forward[stands]).all()
