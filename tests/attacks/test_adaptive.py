"""Defences that declare themselves: surrogate gradients, and noise that is averaged over."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import FGSM, FMN, PGD, AutoAttack, DeepFool, Square, Untargeted
from bezoar.attacks.engine import perturb, search, shrink
from bezoar.attacks.losses import cross_entropy, margin
from bezoar.attacks.oracle import Answers, classifier_keys
from bezoar.classifier import (
    averaged,
    outputs_random,
    predict,
    prepare,
    random_modules,
    reseeded,
    weights_hash,
)
from bezoar.data.imageset import ImageSet
from bezoar.referee import DRAWS, Referee, measure
from bezoar.seeds import Noise, hashed, hashed_normal, subkeys

ONES = Untargeted(torch.ones(8, dtype=torch.int64))


def noise_of(count, seed=0):
    return Noise.first(seed, "tests", np.arange(count))


class Rounded(nn.Module):
    """Rounds pixels to a grid; declares that it is nearly the identity."""

    def forward(self, x):
        return (x * 50).round() / 50

    def surrogate(self, x):
        return x


class Undeclared(Rounded):
    surrogate = None


class Cut(nn.Module):
    """A classifier that nothing leads back from."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.detach())


class Blurred(nn.Module):
    """Adds normal noise, and declares it."""

    def __init__(self, sigma=0.1):
        super().__init__()
        self.sigma, self.keys, self.seen = sigma, None, []

    def reseed(self, keys):
        self.keys = keys
        if keys is not None:
            self.seen += keys.tolist()

    def forward(self, x):
        if self.keys is None:
            return x + self.sigma * torch.randn_like(x)
        zero = torch.zeros_like(self.keys)
        return x + self.sigma * hashed_normal(self.keys, zero, x.shape[1:]).to(x)


class Coin(nn.Module):
    """Two classes; says class 0 in a share ``x`` of its draws, of whatever pixel 0 is."""

    def __init__(self):
        super().__init__()
        self.keys = None

    def reseed(self, keys):
        self.keys = keys

    def forward(self, x):
        draw = hashed(self.keys, torch.zeros_like(self.keys), (1,))
        right = (draw < x.flatten(1)[:, :1]).float() * 2 - 1
        return 5 * torch.cat([right, -right], dim=1) + 0 * x.sum()


class TestSurrogate:
    def test_the_value_is_that_of_the_module_to_the_bit(self, linear, batch):
        class Odd(Rounded):
            def surrogate(self, x):
                return 1e6 * x  # in float32, s + (f - s) is not f

        model = nn.Sequential(Odd(), linear)  # a convolution's sums depend on the layout
        x = batch[0].clone().requires_grad_()
        assert torch.equal(prepare(model)[0](x), Odd()(x))
        assert torch.equal(predict(prepare(model), batch[0]), predict(model, batch[0]))

    def test_the_gradient_is_that_of_the_surrogate(self, blocks, images):
        guarded = nn.Sequential(Rounded(), blocks)
        _, through = Answers(prepare(guarded), PGD(), images, ONES).gradient(images, margin)
        _, plain = Answers(blocks, PGD(), images, ONES).gradient(Rounded()(images), margin)
        assert torch.equal(through, plain)
        assert plain.abs().sum() > 0

    def test_a_whole_classifier_may_declare_one(self, blocks, images):
        class Decided(nn.Module):
            """Answers with the class alone."""

            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return nn.functional.one_hot(self.inner(x).argmax(dim=1), 3).float()

            def surrogate(self, x):
                return self.inner(x)

        found = search(PGD(eps=0.1), prepare(Decided(blocks)), images, ONES, noise_of(8))
        assert (found.first_success >= 0).tolist() == [True] * 4 + [False] * 4

    def test_one_inside_another_has_its_own(self, batch):
        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Rounded()

            def forward(self, x):
                return self.inner(x).sign()

            def surrogate(self, x):
                return 3 * self.inner(x)

        x = batch[0].clone().requires_grad_()
        prepare(Outer())(x).sum().backward()
        assert torch.equal(x.grad, torch.full_like(x, 3.0))

    def test_no_gradient_costs_no_surrogate(self, batch):
        class Counted(Rounded):
            calls = 0

            def surrogate(self, x):
                Counted.calls += 1
                return x

        with torch.no_grad():
            prepare(Counted())(batch[0])
        assert Counted.calls == 0

    def test_the_original_and_its_hash_are_left_alone(self, small_convnet, batch):
        model = nn.Sequential(Rounded(), small_convnet)
        copy = prepare(model)
        assert weights_hash(copy) == weights_hash(model)
        x = batch[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        assert not gradient.any()
        x = batch[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(prepare(copy)(x).sum(), x)
        assert gradient.any()

    def test_another_shape_is_refused(self, batch):
        class Cropped(Rounded):
            def surrogate(self, x):
                return x[..., 1:]

        message = r"Cropped.surrogate gives shape .*4, 4\): expected that of its forward, .*4, 5\)"
        with pytest.raises(ValueError, match=message):
            prepare(Cropped())(batch[0])

    def test_the_attack_is_stronger_with_it_than_without(self, blocks, images):
        stand = {}
        for quantiser in (Rounded(), Undeclared()):
            model = prepare(nn.Sequential(quantiser, blocks))
            found = search(PGD(eps=0.1, restarts=2), model, images, ONES, noise_of(8))
            stand[type(quantiser)] = (found.first_success < 0).sum().item()
        assert stand[Rounded] < stand[Undeclared]


class TestNoGradient:
    @pytest.mark.parametrize("attack", [PGD(), FGSM(), DeepFool(), FMN()], ids=repr)
    def test_is_a_zero_gradient_and_no_crash(self, attack, blocks, images):
        run = shrink if attack.refines else search
        found = run(replace(attack, eps=0.01), Cut(blocks), images, ONES, noise_of(8))
        assert found.zero_gradient.all()
        assert (found.backward > 0).all()

    def test_of_a_graph_that_the_image_has_no_part_in_either(self, small_convnet, batch):
        x, y = batch
        small_convnet.requires_grad_(True)
        oracle = Answers(Cut(small_convnet), PGD(), x, Untargeted(y))
        _, gradient = oracle.gradient(x, cross_entropy)
        assert not gradient.any()
        assert oracle.zero.all()


class TestSubkeys:
    KEYS = torch.tensor([5, 6, 7, 2**63 - 1])

    def test_are_all_different_and_depend_on_no_neighbour(self):
        found = torch.stack([subkeys(self.KEYS, k) for k in range(50)])
        assert len(set(found.flatten().tolist())) == 200
        assert torch.equal(
            found[:, 2:3], torch.stack([subkeys(self.KEYS[2:3], k) for k in range(50)])
        )
        numbers = torch.tensor([3, 0, 3, 9])
        assert torch.equal(subkeys(self.KEYS, numbers), found[numbers, torch.arange(4)])

    def test_share_nothing_with_the_numbers_of_the_key_itself(self):
        own = hashed(self.KEYS[:1], torch.tensor([0]), (1000,)).flatten()
        child = (subkeys(self.KEYS[:1].expand(1000), torch.arange(1000)) >> 40 & 0xFFFFFF) / 2**24
        assert abs(np.corrcoef(own.numpy(), child.numpy())[0, 1]) < 0.13
        assert abs(np.corrcoef(own[1:].numpy(), child[:-1].numpy())[0, 1]) < 0.13


class TestReseeded:
    def test_every_module_gets_a_stream_of_its_own_and_is_set_free(self):
        model = nn.Sequential(Blurred(), nn.Sequential(Blurred(), nn.Flatten()))
        with reseeded(model, torch.tensor([1, 2])):
            keys = [module.keys.tolist() for module in random_modules(model)]
        assert len({*keys[0], *keys[1]}) == 4
        assert [module.keys for module in random_modules(model)] == [None, None]

    def test_also_after_an_error(self):
        model = Blurred()
        with pytest.raises(KeyError), reseeded(model, torch.tensor([1])):
            raise KeyError
        assert model.keys is None

    def test_predictions_repeat_and_belong_to_the_key(self, blocks, images):
        model, keys = nn.Sequential(Blurred(), blocks), torch.arange(8) + 40
        whole = predict(model, images, keys=keys, draws=3)
        assert torch.equal(predict(model, images, keys=keys, draws=3, batch=3), whole)
        some = predict(model, images[[5, 1]], keys=keys[[5, 1]], draws=3)
        torch.testing.assert_close(some, whole[[5, 1]])
        assert not torch.equal(predict(model, images, draws=3), whole)
        assert not outputs_random(model, images)


def test_the_average_of_draws_is_the_log_of_the_mean_probability():
    draws = [torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in range(7)]
    expected = torch.stack([z.softmax(dim=1) for z in draws]).mean(dim=0)
    torch.testing.assert_close(averaged(draws).exp(), expected)
    assert averaged(draws[:1]) is draws[0]
    sure = [1e4 * torch.tensor([[1.0, 0.0]]), 1e4 * torch.tensor([[0.0, 1.0]])]
    found = averaged([sure[0], sure[1], sure[1]])  # a vote: two of three
    torch.testing.assert_close(found.exp(), torch.tensor([[1 / 3, 2 / 3]]))


class TestDraws:
    @pytest.fixture
    def noisy(self, blocks):
        return nn.Sequential(Blurred(), blocks)

    def answers(self, noisy, images, draws=1, **more):
        keys = classifier_keys(noisy, noise_of(len(images)))
        goal = Untargeted(ONES.aim[: len(images)])
        return Answers(noisy, PGD(eps=0.2), images, goal, keys=keys, draws=draws, **more)

    def test_every_pass_has_fresh_noise(self, noisy, images):
        oracle = self.answers(noisy, images, draws=4)
        oracle.gradient(images, margin)
        oracle.logits(images)
        oracle.jacobian(images, torch.tensor([[0, 1]] * 8))
        assert len(noisy[0].seen) == oracle.forward.sum()
        assert len(set(noisy[0].seen)) == len(noisy[0].seen)

    def test_also_several_points_of_one_image_in_a_pass(self, noisy, images):
        oracle = self.answers(noisy, images, draws=3)
        rows = torch.tensor([2, 2, 0, 2])
        oracle.of(rows).logits(images[rows])
        oracle.of(rows).logits(images[rows])
        assert len(noisy[0].seen) == oracle.forward.sum() >= 24
        assert len(set(noisy[0].seen)) == len(noisy[0].seen)

    def test_gradient_and_loss_are_means_over_the_draws(self, noisy, images):
        keys = classifier_keys(noisy, noise_of(8))
        value, slope = self.answers(noisy, images, draws=5).gradient(images, cross_entropy)
        values, slopes = [], []
        for draw in range(5):
            point = images.clone().requires_grad_()
            with reseeded(noisy, subkeys(keys, draw)):
                loss = cross_entropy(noisy(point), ONES)
            values.append(loss.detach())
            slopes.append(torch.autograd.grad(loss.sum(), point)[0])
        torch.testing.assert_close(value, torch.stack(values).mean(dim=0))
        torch.testing.assert_close(slope, torch.stack(slopes).mean(dim=0))
        assert values[0].tolist() != values[1].tolist()

    def test_logits_are_the_log_of_the_mean_probability(self, noisy, images):
        keys = classifier_keys(noisy, noise_of(8))
        found = self.answers(noisy, images, draws=5).logits(images)
        torch.testing.assert_close(found, predict(noisy, images, keys=keys, draws=5))

    def test_the_jacobian_is_that_of_the_mean_logits(self, noisy, images):
        # The blocks are affine: whatever the noise, the slopes are the weights.
        logits, slopes = self.answers(noisy, images, draws=300).jacobian(
            images, torch.tensor([[2, 0]] * 8)
        )
        torch.testing.assert_close(slopes.flatten(2)[0], noisy[1][1].weight[[2, 0]])
        assert (logits - noisy[1](images)).abs().max() < 4.5 * 0.1 * 5.5 / 300**0.5

    def test_passes_are_counted_with_their_draws(self, noisy, images):
        found = perturb(PGD(eps=0.001, steps=3), noisy, images, ONES, noise_of(8), draws=4)
        assert found.backward.tolist() == [12] * 8
        assert sum(found.forward) == len(noisy[0].seen)

    @pytest.mark.parametrize(
        "attack", [PGD(eps=0.1, steps=4, restarts=2), Square(eps=0.1, steps=9)]
    )
    @pytest.mark.parametrize("size", [1, 3])
    def test_the_noise_of_an_image_does_not_depend_on_its_neighbours(
        self, attack, size, noisy, images
    ):
        whole = search(attack, noisy, images, ONES, noise_of(8), draws=2)
        packed = search(attack, noisy, images, ONES, noise_of(8), draws=2, batch=size)
        torch.testing.assert_close(packed.x_adv, whole.x_adv, atol=1e-6, rtol=0)
        assert torch.equal(packed.forward, whole.forward)
        assert 0 < (whole.first_success >= 0).sum() < 8

    @pytest.mark.parametrize("run", [perturb, search])
    def test_an_attack_of_parts_averages_as_well(self, run, noisy, images):
        attack = AutoAttack(eps=0.05, steps=3, targets=2, queries=3)
        found = run(attack, noisy, images, ONES, noise_of(8), draws=2)
        again = run(attack, noisy, images, ONES, noise_of(8), draws=2)
        assert torch.equal(found.x_adv, again.x_adv)
        assert (found.forward % 2 == 0).all()

    def test_more_draws_point_better(self, images):
        # The sign of a sine of the noisy pixel: a single draw says little about its mean slope.
        class Wavy(nn.Module):
            def forward(self, x):
                rise = torch.sin(20 * x).flatten(1).sum(dim=1)
                return torch.stack([-rise, torch.zeros_like(rise)], dim=1)

        model, zeros = nn.Sequential(Blurred(), Wavy()), Untargeted(torch.zeros(8).long())
        keys, exact = (
            classifier_keys(model, noise_of(8)),
            torch.cos(20 * images),
        )  # damped, same sign

        def agreement(draws):
            oracle = Answers(model, PGD(), images, zeros, keys=keys, draws=draws)
            _, slope = oracle.gradient(images, margin)
            return (slope.sign() == exact.sign()).float().mean()

        assert agreement(1) < 0.7 < 0.85 < agreement(200)

    def test_a_lucky_draw_is_no_success(self):
        # Class 0 in 70 % of the draws, so about 30 % of the single answers fool.
        x = torch.full((400, 1, 1, 1), 0.7)
        goal, noise = Untargeted(torch.zeros(400).long()), noise_of(400)
        keys = classifier_keys(Coin(), noise)
        once = Answers(Coin(), PGD(eps=0), x, goal, keys=keys).decide(x)
        assert 0.2 < once.float().mean() < 0.4
        often = Answers(Coin(), PGD(eps=0), x, goal, keys=keys, draws=20).decide(x)
        assert often.float().mean() < 0.1
        found = search(PGD(eps=0, steps=30), Coin(), x, goal, noise, draws=20)  # not one of 30
        assert (found.first_success >= 0).float().mean() < 0.1
        nearest = Answers(Coin(), FMN(), x, goal, keep="nearest", keys=keys)
        assert 0.04 < nearest.decide(x).float().mean() < 0.16  # fresh draws agree: 0.3 squared

    @pytest.mark.parametrize("attack", [PGD(eps=0.15, steps=6), Square(eps=0.15, steps=6)])
    def test_no_image_leaves_a_random_classifier_before_the_last_step(self, attack, noisy, images):
        found = search(attack, noisy, images, ONES, noise_of(8), draws=2)
        assert found.forward.tolist() == [2 * 7] * 8
        assert (found.first_success >= 0).any()


class TestReferee:
    @pytest.fixture
    def split(self, images):
        return ImageSet(images, ONES.aim, 3 * np.arange(8), ("a", "b", "c"), "toy/test")

    def test_averages_over_a_random_classifier_and_says_so(self, blocks, split):
        noisy = nn.Sequential(Blurred(), blocks)
        found = measure(FGSM(eps=0.05), noisy, split, seed=0)
        assert found.stamp.draws == DRAWS == 20
        assert found.facts.backward.tolist() == [20] * 8
        few = measure(FGSM(eps=0.05), noisy, split, seed=0, draws=3)
        assert few.stamp.draws == 3
        assert few.facts.backward.tolist() == [3] * 8

    def test_asks_another_classifier_once(self, blocks, split):
        found = measure(FGSM(eps=0.05), blocks, split, seed=0)
        assert found.stamp.draws == 1
        assert found.facts.forward.tolist() == [2] * 8

    def test_averages_over_noise_that_is_not_declared_too(self, blocks, split):
        class Hidden(nn.Module):
            def forward(self, x):
                return blocks(x + 0.1 * torch.randn_like(x))

        assert measure(FGSM(eps=0.05), Hidden(), split, seed=0).stamp.draws == 20

    def test_who_does_not_know_the_noise_does_not_average(self, blocks, split):
        noisy = nn.Sequential(Blurred(), blocks)
        found = measure(FGSM(eps=0.05), noisy, split, seed=0, aim=blocks)
        assert found.facts.backward.tolist() == [1] * 8
        assert found.stamp.draws == 20

    @pytest.mark.parametrize("attack", [FGSM(eps=0.05), PGD(eps=0.05, steps=3)], ids=repr)
    def test_repeats_to_the_byte(self, attack, blocks, split):
        noisy = nn.Sequential(Blurred(), blocks)
        first, second = (measure(attack, noisy, split, seed=4) for _ in range(2))
        assert first.x_adv.tobytes() == second.x_adv.tobytes()
        assert first.facts.loss.tolist() == second.facts.loss.tolist()

    def test_judges_by_draws_that_no_attack_saw(self, blocks, split):
        noisy, attack = nn.Sequential(Blurred(), blocks), PGD(eps=0.05, steps=3)
        found = measure(attack, noisy, split, seed=0, draws=4)
        noisy[0].seen.clear()
        keys = found.stamp.judging(split.index)
        again = predict(noisy, torch.from_numpy(found.x_adv), keys=keys, draws=4).argmax(dim=1)
        assert again.tolist() == found.facts.adversarial.tolist()
        judged = set(noisy[0].seen)
        noisy[0].seen.clear()
        stream = Noise.first(0, f"{found.stamp.attack}/{split.name}", split.index)
        search(attack, noisy, split.pixels, ONES, stream, draws=4)
        assert noisy[0].seen
        assert not judged & set(noisy[0].seen)

    def test_other_attacks_are_judged_by_the_same_draws(self, blocks, split):
        noisy = nn.Sequential(Blurred(0.3), blocks)
        clean = [
            measure(attack, noisy, split, seed=0).facts.clean_loss.tolist()
            for attack in (FGSM(eps=0.01), FGSM(eps=0.05), PGD(eps=0.05, steps=2))
        ]
        assert clean[0] == clean[1] == clean[2]

    def test_refuses_no_draw_at_all(self, blocks, split):
        with pytest.raises(ValueError, match="draws=0: expected an integer >= 1"):
            Referee(FGSM(), blocks, split, seed=0, draws=0)


def test_the_gaussian_average_of_an_affine_classifier_is_the_classifier(blocks, images):
    # Smoothing moves no border of an affine classifier: its exact robust accuracy is known.
    noisy = nn.Sequential(Blurred(0.02), blocks)
    x = torch.cat([images] * 2)
    goal = Untargeted(torch.ones(16).long())
    found = search(PGD(eps=0.1, steps=20), noisy, x, goal, noise_of(16), draws=20)
    stands = blocks(found.x_adv).argmax(dim=1) == 1
    assert stands.tolist() == ([False] * 4 + [True] * 4) * 2
