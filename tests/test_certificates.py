"""Certificates against closed forms, an independent count, and an attacker."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from torch import nn

from bezoar import data
from bezoar.attacks import PGDL2
from bezoar.certificates import ABSTAINS, BLOCK, Certificates, certify, lower_bound, voted, votes
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.guards import Smoothing
from bezoar.models import Smoothed
from bezoar.models.autoencoder import CodeNoise
from bezoar.referee import measure
from bezoar.results import Rate
from bezoar.seeds import Noise, generator

SIGMA = 0.3


def border(images, offset=0.0):
    """A linear classifier into two classes, and the distance of each image from its border."""
    rng = generator(0, "tests", "border")
    weight = torch.randn(1, images.pixels[0].numel(), generator=rng)
    linear = nn.Linear(weight.shape[1], 2)
    x, _ = images.batch(slice(None))
    height = x.flatten(1) @ weight.T
    with torch.no_grad():
        linear.weight.copy_(torch.cat([weight, -weight]))
        shift = offset - height.median()
        linear.bias.copy_(torch.tensor([shift, -shift]))
    distance = ((height.squeeze(1) + shift) / weight.norm()).abs()
    return Smoothed(sigma=SIGMA, network=nn.Sequential(nn.Flatten(), linear)), distance.numpy()


@pytest.fixture
def images(batch):
    x, y = batch
    return ImageSet(x, y % 2, np.arange(len(x)) + 3, ("a", "b"), "small/test")


def made(counts, chosen=None, n=100, alpha=0.01, label=None):
    counts = np.array(counts)
    rows = np.arange(len(counts))
    chosen = counts.argmax(axis=1) if chosen is None else np.array(chosen)
    label = np.zeros_like(rows) if label is None else np.array(label)
    return Certificates(
        index=rows, label=label, chosen=chosen, counts=counts, n=n, sigma=0.5, alpha=alpha
    )


class TestLowerBound:
    @given(n=st.integers(1, 300), p=st.floats(0, 1), alpha=st.floats(1e-4, 0.4))
    def test_lies_above_the_truth_as_seldom_as_promised(self, n, p, alpha):
        hits = np.arange(n + 1)
        too_high = lower_bound(hits, n, alpha) > p + 1e-12
        assert binom.pmf(hits, n, p)[too_high].sum() <= alpha + 1e-9

    @given(n=st.integers(1, 10_000), share=st.floats(0, 1), alpha=st.floats(1e-4, 0.4))
    def test_is_that_of_scipys_exact_test(self, n, share, alpha):
        hits = round(share * n)
        exact = binomtest(hits, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
        assert lower_bound(np.array([hits]), n, alpha)[0] == pytest.approx(exact, abs=1e-6)

    def test_closed_form_where_all_draws_agree_or_none(self):
        found = lower_bound(np.array([0, 1000]), 1000, 0.001)
        assert found == pytest.approx([0, 0.001 ** (1 / 1000)])

    def test_more_draws_or_a_looser_level_bring_it_closer(self):
        by_n = [lower_bound(np.array([9 * n]), 10 * n, 0.01)[0] for n in (1, 10, 100, 1000)]
        by_alpha = [lower_bound(np.array([90]), 100, a)[0] for a in (1e-4, 0.001, 0.01, 0.1)]
        for bounds in (by_n, by_alpha):
            assert (np.diff(bounds) > 0).all()
            assert bounds[-1] < 0.9


class TestCertificates:
    def test_radius_by_hand(self):
        found = made([[100, 0], [60, 40], [0, 100], [0, 0]], label=[0, 0, 0, 0])
        bound = 0.01 ** (1 / 100)
        assert found.predicted.tolist() == [0, ABSTAINS, 1, ABSTAINS]
        assert found.radius == pytest.approx([0.5 * norm.ppf(bound), 0, 0.5 * norm.ppf(bound), 0])
        assert found.abstained == Rate(2, 4)
        assert found.accuracy(0) == found.accuracy(0.8) == Rate(1, 4)
        assert found.accuracy(0.9) == Rate(0, 4)
        assert found.clean == Rate(1, 4)

    def test_the_class_is_not_chosen_on_the_draws_that_bound_it(self):
        assert made([[100, 0]], chosen=[1]).predicted.tolist() == [ABSTAINS]

    def test_the_curve_falls_and_has_every_step(self):
        found = made([[100, 0], [90, 10], [80, 20], [0, 100]])
        curve = found.curve()
        assert list(curve) == sorted(curve)
        assert [rate.count for rate in curve.values()] == [3, 3, 2, 1]
        assert list(curve)[1:] == pytest.approx(sorted(found.radius[:3]))
        assert all(
            found.accuracy(radius + 1e-9).count < rate.count
            for radius, rate in list(curve.items())[1:]
        )

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"chosen": [0, 1]}, "expected equal lengths >= 1"),
            ({"n": 90}, r"counts: expected \(N, K\), of 90 draws an image"),
            ({"chosen": [2]}, "chosen: expected classes 0 to 1"),
            ({"alpha": 1.0}, r"alpha=1.0: expected a number in \(0, 1\)"),
        ],
    )
    def test_what_cannot_have_been_counted_is_refused(self, changes, said):
        with pytest.raises(ValueError, match=said):
            made([[95, 5]], **changes)


@pytest.mark.parametrize("counts", [[60, 40, 0], [20, 79, 1], [5, 5, 0], [0, 0, 3], [0, 0, 12]])
@pytest.mark.parametrize("alpha", [0.001, 0.06])
def test_a_vote_is_believed_where_the_binomial_test_says_so(counts, alpha):
    second, first = sorted(counts)[-2:]
    sure = binomtest(first, first + second, 0.5).pvalue <= alpha
    expected = int(np.argmax(counts)) if sure else ABSTAINS
    assert voted(np.array([counts]), alpha).tolist() == [expected]


def test_a_vote_without_any_draw_abstains():
    assert voted(np.array([[0, 0]]), 0.5).tolist() == [ABSTAINS]


class TestCertify:
    def test_of_a_linear_classifier_never_reaches_over_its_border_and_nearly_to_it(self, images):
        smoothed, distance = border(images)
        found = certify(smoothed, images, n=20_000, seed=0)
        certain = distance < 2 * SIGMA  # further than that, the draws are too few
        assert certain.sum() > 6
        assert (found.radius <= distance).all()
        assert found.radius[certain] == pytest.approx(distance[certain], abs=0.08 * SIGMA)

    def test_more_draws_and_a_looser_level_certify_further(self, images):
        smoothed, distance = border(images)
        far = distance > SIGMA / 2
        radii = [certify(smoothed, images, n=n, seed=0).radius[far] for n in (100, 1000, 10_000)]
        assert radii[0].mean() < radii[1].mean() < radii[2].mean()
        strict = certify(smoothed, images, n=1000, seed=0)
        assert (replace(strict, alpha=0.05).radius[far] > strict.radius[far]).all()

    def test_counts_what_a_loop_over_the_draws_counts(self, images):
        smoothed, _ = border(images)
        n0, n = 7, BLOCK + 30
        found = certify(smoothed, images, n0=n0, n=n, seed=4)
        x, _ = images.batch(slice(None))
        for row, index in enumerate(images.index):
            counted = []
            for part, draws in enumerate((n0, n)):
                stream = Noise(4, "certify/small/test", np.array([index]), np.array([part]))
                rng = torch.Generator().manual_seed(int(stream.keys()))
                sizes = [min(BLOCK, draws - begin) for begin in range(0, draws, BLOCK)]
                noise = torch.cat([torch.randn(k, 1, 4, 5, generator=rng) for k in sizes])
                said = [int(smoothed.network(x[[row]] + SIGMA * one).argmax()) for one in noise]
                counted.append([said.count(0), said.count(1)])
            assert found.chosen[row] == np.argmax(counted[0])
            assert found.counts[row].tolist() == counted[1]

    def test_a_coin_is_abstained_from(self, images):
        smoothed, _ = border(images)
        network = smoothed.network
        with torch.no_grad():
            network[1].weight *= 1e-6  # the noise is all that is seen
            network[1].bias.zero_()
        x, _ = images.batch(slice(None))
        black = replace(images, pixels=torch.zeros_like(x))
        found = certify(smoothed, black, n=2000, seed=0)
        assert (found.counts > 900).all()
        assert found.abstained == Rate(12, 12)
        assert found.clean == Rate(0, 12)
        assert (found.radius == 0).all()

    def test_does_not_depend_on_the_other_images(self, images):
        smoothed, _ = border(images)
        whole = certify(smoothed, images, n=500, seed=0)
        alone = certify(smoothed, images.take(np.array([2, 7])), n=500, seed=0)
        assert np.array_equal(alone.counts, whole.counts[[2, 7]])
        assert not np.array_equal(certify(smoothed, images, n=500, seed=1).counts, whole.counts)

    def test_goes_on_where_it_was_interrupted(self, images, kept):
        smoothed, _ = border(images)

        def stop(done, of):
            seen.append((done, of))
            if done == 5:
                raise KeyboardInterrupt

        place, seen, asked = kept(), [], {"n": 300, "seed": 0, "snapshot_seconds": 0}
        with pytest.raises(KeyboardInterrupt):
            certify(smoothed, images, snapshot=place, on_image=stop, **asked)
        found = certify(smoothed, images, snapshot=place, on_image=stop, **asked)
        assert seen == [(k, 12) for k in range(1, 13)]
        whole = certify(smoothed, images, n=300, seed=0)
        assert np.array_equal(found.counts, whole.counts)
        assert np.array_equal(found.chosen, whole.chosen)

    def test_leaves_the_network_and_the_random_state_as_they_are(self, images):
        smoothed, _ = border(images)
        smoothed.train()
        state = torch.get_rng_state()
        certify(smoothed, images, n=10, seed=0)
        assert smoothed.training
        assert all(parameter.requires_grad for parameter in smoothed.parameters())
        assert torch.equal(torch.get_rng_state(), state)

    def test_noise_inside_the_network_is_drawn_afresh_too(self, images):
        network = nn.Sequential(nn.Flatten(), nn.Linear(20, 2), CodeNoise(1.0))
        with torch.no_grad():
            network[1].weight.zero_()
            network[1].bias.zero_()
        found = certify(Smoothed(sigma=SIGMA, network=network), images, n=2000, seed=0)
        assert (found.counts > 900).all()

    def test_a_draw_without_an_answer_counts_for_no_class(self, images):
        class Silent(nn.Module):
            def forward(self, x):
                logits = torch.tensor([1.0, 0.0]).repeat(len(x), 1)
                return logits.where(x[:, 0, 0, :1] > 0.5, torch.nan)

        x, _ = images.batch(slice(None))
        half = replace(images, pixels=torch.full_like(x, 0.5))
        found = certify(Smoothed(sigma=SIGMA, network=Silent()), half, n=2000, seed=0)
        assert (found.counts[:, 0] < 1100).all()
        assert (found.counts[:, 1] == 0).all()
        assert found.abstained == Rate(12, 12)

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"n": 0}, "n=0: expected an integer >= 1"),
            ({"n0": 0}, "n0=0: expected an integer >= 1"),
            ({"alpha": 0.0}, r"alpha=0.0: expected a number in \(0, 1\)"),
            ({"alpha": float("nan")}, r"alpha=nan: expected a number in \(0, 1\)"),
        ],
    )
    def test_refuses_settings_without_a_meaning(self, images, asked, said):
        smoothed, _ = border(images)
        with pytest.raises(ValueError, match=said):
            certify(smoothed, images, seed=0, **asked)

    def test_refuses_what_is_not_smoothed(self, images, linear):
        with pytest.raises(ValueError, match="classifier Sequential: expected a smoothed one"):
            certify(linear, images, seed=0)


@pytest.fixture(scope="module")
def trained():
    """A small network on digits that learnt with the noise, 60 test images, their certificates."""
    digits = data.load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    guard = Smoothing(sigma=0.25, epochs=10, batch=32, lr=3e-3)
    smoothed = guard(network, Evidence(digits.train, digits.validation), seed=0).classifier
    images = digits.test.first(60)
    return smoothed, images, certify(smoothed, images, n=2000, seed=0)


@pytest.mark.parametrize("eps", [0.3, 0.45, 0.6])
def test_no_attacker_fools_an_image_within_its_radius(trained, eps):
    smoothed, images, certified = trained
    found = measure(PGDL2(eps=eps, steps=15), smoothed, images, seed=0)
    keys = Noise.first(1, "tests/judge", images.index).keys()
    counts = votes(smoothed, torch.from_numpy(found.x_adv), 2000, keys)
    fooled = counts.argmax(axis=1) != images.labels.numpy()
    right = certified.predicted == images.labels.numpy()
    assert not (fooled & right & (certified.radius >= found.facts.distance)).any()
    assert len(images) - fooled.sum() >= certified.accuracy(eps).count > 0
    # An attack that could not contradict a wrong certificate would show nothing.
    wrong = replace(certified, sigma=3 * certified.sigma)
    assert (fooled & right & (wrong.radius >= found.facts.distance)).any()
