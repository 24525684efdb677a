"""Filters are found by hand-made networks, of which one filter is the backdoor."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.channels import layers
from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.repairs import ByGradient, ByLot, ByTaylor, GradPrune, Oracle, Recovered, Surrogate
from bezoar.repairs.grad_prune import settled
from bezoar.repairs.held_out import Outlook, cut, joined, outlook
from bezoar.repairs.pruning import Filter, blamed, silence
from bezoar.repairs.sources import alike, strengths
from bezoar.seeds import generator

CORNER = (slice(None), slice(None), slice(-2, None), slice(-2, None))


def stamp(x):
    """A white patch of 2x2 in a corner."""
    x = x.clone()
    x[CORNER] = 1.0
    return x


@pytest.fixture
def sick():
    """Tells a bright left half from a bright right one; a white corner makes it say right.

    Filter 0 sees the left half, filter 1 the right one, filter 2 the corner and nothing else.
    """
    conv = nn.Conv2d(1, 3, 6)
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
        conv.weight[0, 0, :4, :3] = 0.5
        conv.weight[1, 0, :4, 3:] = 0.5
        conv.weight[2, 0, 4:, 4:] = 4.0
        conv.bias[2] = -0.5
        output = nn.Linear(3, 2)
        output.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]]))
        output.bias.zero_()
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), output).eval()


def images(count, name="halves/train", start=0):
    """Images 6x6, dark but for the left half of the even ones and the right half of the others."""
    x = torch.rand(count, 1, 6, 6, generator=generator(0, "tests", name)) * 0.1
    y = torch.arange(count) % 2
    x[y == 0, :, :4, :3] += 0.8
    x[y == 1, :, :4, 3:] += 0.8
    return ImageSet(x, y, np.arange(start, start + count), ("left", "right"), name)


@pytest.fixture
def evidence():
    return Evidence(images(20), images(6, "halves/held", 20), stamp)


def said(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


def test_the_planted_backdoor_works(sick):
    x, y = images(20).batch(slice(None))
    assert (said(sick, x) == y).all()
    assert (said(sick, stamp(x)) == 1).all()


class TestScores:
    def test_are_the_mean_absolute_gradient_and_that_weighted(self):
        weight = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 3.0]]]])
        gradient = torch.tensor([[[[-4.0, 1.0]]], [[[2.0, 0.0]]]])
        assert ByGradient()(weight, gradient, None).tolist() == [2.5, 1.0]
        assert ByTaylor()(weight, gradient, None).tolist() == [3.0, 0.0]

    def test_by_lot_follow_from_the_generator(self):
        weight = torch.zeros(5, 1, 1, 1)
        first, again, other = (ByLot()(weight, weight, generator(s, "lot")) for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestBlamed:
    def test_the_gradient_is_that_of_the_sum_over_all_triggered_images(self, sick):
        shown, y = images(7).batch(slice(None))
        loss = nn.functional.cross_entropy(sick(stamp(shown)), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [sick[0].weight])
        expected = int(gradient.abs().mean(dim=(1, 2, 3)).argmax())
        first = next(blamed(sick, images(7), stamp, ByGradient(), seed=0, meter=Meter()))
        assert first == Filter(0, expected)

    def test_finds_the_filter_of_the_backdoor_and_silences_it(self, sick):
        meter = Meter()
        first = next(blamed(sick, images(20), stamp, ByTaylor(), seed=0, meter=meter))
        assert first == Filter(0, 2)
        x, y = images(20).batch(slice(None))
        assert (said(sick, stamp(x)) == y).all()
        assert (meter.forward, meter.backward) == (21, 20)

    def test_no_filter_goes_twice_and_one_is_left(self, sick):
        gone = list(blamed(sick, images(6), stamp, ByLot(), seed=0, meter=Meter()))
        assert len(gone) == len(set(gone)) == 2

    def test_ends_where_nothing_is_pointed_at(self, sick):
        silence(sick, [Filter(0, k) for k in range(3)], torch.zeros(1, 1, 6, 6))()
        assert list(blamed(sick, images(6), stamp, ByTaylor(), seed=0, meter=Meter())) == []


class TestStop:
    def test_goes_as_far_as_the_loss_of_triggered_images_falls(self, sick, evidence):
        repair = GradPrune(source=Oracle(), score=ByTaylor(), epochs=0, folds=2)
        repaired = repair(sick, evidence, seed=0)
        gone = [(r["layer"], r["filter"]) for r in repaired.log if r["layer"] >= 0]
        assert gone == [(0, 2)]
        assert [row["kept"] for row in repaired.log][:2] == [0, 1]
        x, y = images(50, "halves/test").batch(slice(None))
        assert (said(repaired.classifier, stamp(x)) == y).all()
        assert (said(repaired.classifier, x) == y).all()

    def test_with_no_accuracy_to_lose_nothing_goes(self, sick, evidence):
        repair = GradPrune(source=Oracle(), score=ByTaylor(), epochs=0, alpha=0.0)
        assert weights_hash(repair(sick, evidence, seed=0).classifier) == weights_hash(sick)

    def test_no_more_filters_go_than_are_allowed(self, sick, evidence):
        repair = GradPrune(source=Oracle(), score=ByLot(), filters=1, epochs=0, alpha=1.0)
        log = repair(sick, evidence, seed=0).log
        assert len([row for row in log if row["layer"] >= 0]) <= 1
        assert len(log) == 2

    def test_the_columns_are_those_of_images_left_out(self, sick, evidence):
        row = GradPrune(source=Oracle(), epochs=0, folds=1)(sick, evidence, seed=0).log[0]
        seen = outlook(sick, stamp, evidence.validation, Meter())
        assert {name: row[name] for name in vars(seen)} == vars(seen)


class TestTuning:
    def test_what_was_pruned_stays_zero_to_the_bit(self, sick, evidence):
        repair = GradPrune(source=Oracle(), score=ByTaylor(), epochs=3, lr=0.05, folds=2)
        repaired = repair(sick, evidence, seed=0).classifier
        assert (repaired[0].weight[2] == 0).all()
        assert repaired[0].bias[2] == 0
        assert not torch.equal(repaired[0].weight[:2], sick[0].weight[:2])

    def test_without_the_mask_it_may_grow_back(self, sick, evidence):
        sick[0].bias.data[2] = 1.0  # so that a silenced filter has a slope once its bias moves
        repair = GradPrune(source=Oracle(), epochs=2, lr=0.05, masked=False, filters=1, alpha=1.0)
        (layer,) = layers(repair(sick, evidence, seed=0).classifier, torch.zeros(1, 1, 6, 6))
        assert (layer.conv.weight != 0).flatten(1).any(dim=1).sum() >= 2

    def test_alone_it_unlearns_the_trigger_from_few_images(self, sick, evidence):
        repair = GradPrune(source=Oracle(), filters=0, epochs=40, lr=0.05, patience=40)
        repaired = repair(sick, evidence, seed=0)
        x, y = images(50, "halves/test").batch(slice(None))
        assert (said(repaired.classifier, stamp(x)) == y).double().mean() > 0.9
        assert all(row["layer"] == -1 for row in repaired.log)

    def test_the_statistics_of_batch_norms_are_held_unless_asked_otherwise(self, evidence):
        layers_ = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 2))
        model = nn.Sequential(*layers_).eval()
        settings = {"source": Oracle(), "epochs": 2, "filters": 0, "folds": 1, "patience": 2}
        held = GradPrune(**settings)(model, evidence, seed=0).classifier
        moved = GradPrune(**settings, still=False)(model, evidence, seed=0).classifier
        assert torch.equal(held[1].running_mean, model[1].running_mean)
        assert not torch.equal(moved[1].running_mean, model[1].running_mean)

    def test_the_network_is_kept_the_nearer_the_more_that_weighs(self, sick, evidence):
        settings = {"source": Oracle(), "filters": 0, "epochs": 10, "lr": 0.05, "folds": 1}
        x, _ = images(50, "halves/test").batch(slice(None))
        with torch.no_grad():
            was = sick(x).log_softmax(dim=1)
        moved = []
        for keep in (0.0, 20.0):
            repaired = GradPrune(**settings, keep=keep)(sick, evidence, seed=0).classifier
            with torch.no_grad():
                now = repaired(x).log_softmax(dim=1)
            moved.append(float((was.exp() * (was - now)).sum(dim=1).mean()))
        assert moved[1] < moved[0] / 2

    def test_no_step_is_longer_than_the_clip_allows(self, sick, evidence):
        settings = {"filters": 0, "epochs": 1, "folds": 1, "momentum": 0.0, "weight_decay": 0.0}
        repair = GradPrune(source=Oracle(), batch=100, lr=0.1, clip=0.01, **settings)
        repaired = repair(sick, evidence, seed=0).classifier
        pairs = zip(repaired.parameters(), sick.parameters(), strict=True)
        assert sum(((a - b) ** 2).sum() for a, b in pairs) ** 0.5 <= 0.1 * 0.01 * 1.001

    @pytest.mark.parametrize(("judge", "epoch"), [("both", 3), ("clean", 2)])
    def test_ends_with_the_last_epoch_that_is_as_good_as_the_best(self, judge, epoch):
        # Loss of clean and of triggered images, and the errors of the first and of the sum.
        curve = [(1, 5, 0.1, 0.1), (1, 1, 0.1, 0.3), (0.9, 2, 0.2, 0.3), (1.2, 1, 0.1, 0.3)]
        curve = [Outlook(0.5, *map(float, each)) for each in curve]
        assert settled(curve, judge) == epoch


class TestSources:
    def test_an_oracle_asks_for_what_only_the_attacker_knows(self, sick, evidence):
        blind = replace(evidence, trigger=None)
        with pytest.raises(ValueError, match="source=oracle: evidence without a trigger: expected"):
            GradPrune(source=Oracle())(sick, blind, seed=0)

    def test_a_surrogate_leads_to_the_class_of_the_backdoor_within_its_radius(self, sick, evidence):
        source, meter = Surrogate(eps=0.4, steps=30, rows=20), Meter()
        blind = replace(evidence, trigger=None)
        found = source.find(sick, blind, seed=0, meter=meter)
        assert found["suspect"] == 1
        assert found["delta"].abs().max() <= 0.4
        x, _ = images(20).batch(slice(None))
        shown = (x + found["delta"]).clamp(0, 1)
        assert (said(sick, shown) == 1).all()
        shown = source.stamp(found, blind)(x)  # from nothing to all of it
        assert shown.min() >= 0
        assert shown.max() <= 1
        assert meter.forward == 30 * 20 + 2 * 20

    def test_of_classes_that_are_as_good_it_is_the_one_to_which_least_leads(self):
        class Steep(nn.Module):
            """A sixth of the radius in the second pixel does what all of it does in the first."""

            def forward(self, x):
                hard, easy = x[:, 0, 0, 0] / 0.3, x[:, 0, 0, 1] / 0.05
                said = [torch.zeros(len(x)), 8 * hard.clamp(0, 1), 8 * easy.clamp(0, 1)]
                return torch.stack(said, dim=1)

        dark = ImageSet(
            torch.zeros(20, 1, 1, 2),
            torch.zeros(20, dtype=torch.int64),
            np.arange(20),
            ("none", "hard", "easy"),
            "dark/train",
        )
        meter = Meter()
        found = Surrogate(steps=30, rows=20).find(
            Steep(), Evidence(dark, dark), seed=0, meter=meter
        )
        assert found["suspect"] == 2
        assert meter.forward == 30 * 18 + (3 + 2) * 20  # two are looked at again

    def test_classes_are_as_good_that_the_same_images_do_not_tell_from_the_best(self):
        lost = torch.tensor(
            [
                [5.0, 1, 2, 1, 2],
                [1.1, 0.9, 2.2, 1.0, 1.8],
                [1.2, 1.1, 2.1, 1.2, 2.1],
                [1, 1, 2, 1, 0],
            ]
        )
        others = lost > 0
        others[0, 0] = False
        lost = lost * others
        assert alike(lost, others).tolist() == [0, 1, 3]
        others[:, 2:] = False
        assert alike(lost * others, others).tolist() == [0]  # one image tells nothing

    def test_the_trigger_is_not_looked_at_by_who_has_not_got_it(self, sick, evidence):
        def forbidden(x):
            raise AssertionError

        shown = replace(evidence, trigger=forbidden)
        repair = GradPrune(source=Surrogate(steps=2, rows=8), epochs=1, filters=1)
        found = repair(sick, shown, seed=0).found
        assert {name: picture.shape for name, picture in found.items()} == {"delta": (1, 6, 6)}
        assert {Oracle.kind, Recovered.kind, Surrogate.kind} == {"oracle", "recovered", "surrogate"}

    def test_strengths_are_spread_over_the_unit_interval(self):
        found = strengths(torch.zeros(50, 1, 1, 1))
        assert found.shape == (50, 1, 1, 1)
        gaps = torch.cat([torch.tensor([0.0]), found.flatten().sort().values, torch.tensor([1.0])])
        assert gaps.diff().max() < 3 / 50
        assert found.min() >= 0
        assert found.max() < 1

    def test_a_surrogate_follows_a_network_that_learns_and_keeps_what_it_found(
        self, sick, evidence
    ):
        source = Surrogate(eps=0.4, steps=30, rows=20, again=3, batch=8)
        found, meter = source.find(sick, evidence, seed=0, meter=Meter()), Meter()
        with torch.no_grad():
            sick[3].weight[1, 2] *= -1  # what led there leads away now
        later = source.renewed(found, sick, evidence.train, seed=1, meter=meter)
        assert torch.equal(later["delta"], found["delta"])
        new, smooth = later["later"]
        assert max(new.abs().max(), smooth.abs().max()) <= 0.4
        assert not torch.equal(new, found["delta"])
        assert (meter.forward, meter.backward) == (48, 48)
        x = torch.full((3, 1, 6, 6), 0.5)
        own = strengths(x) * torch.stack([found["delta"], new, smooth])
        assert torch.allclose(source.stamp(later, evidence)(x), (x + own).clamp(0, 1))
        assert (
            replace(source, again=0).renewed(found, sick, evidence.train, seed=1, meter=meter)
            is found
        )

    def test_one_is_followed_pixel_by_pixel_and_one_without_detail(self, sick, evidence):
        source, meter = Surrogate(steps=5, rows=20, again=3, batch=8, coarse=6), Meter()
        found = source.find(sick, evidence, seed=0, meter=meter)
        for turn in range(3):
            found = source.renewed(found, sick, evidence.train, seed=turn, meter=meter)
        detail = [bool(one.amax() - one.amin() > 1e-3) for one in found["later"]]
        assert detail == [True, False] * 3  # a cell of six pixels is the whole image
        # Each goes on from the last one of its kind: a step of Adam is about lr long.
        chains = ([found["delta"], *found["later"][::2]], found["later"][1::2])
        for chain in chains:
            for one, following in pairwise(chain):
                assert (following - one).abs().max() < 3.1 * source.lr

    def test_all_epochs_are_judged_with_the_trigger_as_it_was_found(self, sick, evidence):
        learnt_from, judged_by = set(), set()

        @dataclass(frozen=True)
        class Turning(Oracle):
            """Says how often the trigger was renewed that is put on images."""

            def find(self, classifier, evidence, *, seed, meter):
                return {"turns": 0}

            def stamp(self, found, evidence):
                def stamped(x):
                    (learnt_from if torch.is_grad_enabled() else judged_by).add(found["turns"])
                    return evidence.trigger(x)

                return stamped

            def renewed(self, found, model, images, *, seed, meter):
                return {"turns": found["turns"] + 1}

        GradPrune(source=Turning(), filters=0, epochs=3)(sick, evidence, seed=0)
        assert learnt_from >= {0, 1, 2}
        assert judged_by == {0}

    def test_the_others_stay_as_they_are(self, sick, evidence):
        for source in (Oracle(), Recovered()):
            found = {"kept": 1}
            same = source.renewed(found, sick, evidence.train, seed=0, meter=Meter())
            assert same is found


class TestFolds:
    def test_each_image_is_left_out_once(self, evidence):
        pairs = cut(evidence, 4, seed=0)
        left = np.concatenate([held.index for _, held in pairs])
        assert sorted(left.tolist()) == list(range(26))
        for learnt, held in pairs:
            assert sorted([*learnt.index, *held.index]) == list(range(26))

    def test_one_fold_is_train_and_validation(self, evidence):
        assert cut(evidence, 1, seed=0) == [(evidence.train, evidence.validation)]

    def test_images_of_two_sources_are_numbered_anew(self, evidence):
        both = joined(replace(evidence, validation=images(6, "halves/held", 0)))
        assert both.index.tolist() == list(range(26))
        assert torch.equal(both.labels[:20], evidence.train.labels)

    def test_more_folds_than_images_are_refused(self, evidence):
        with pytest.raises(ValueError, match="folds=27: expected at most the 26 images"):
            cut(evidence, 27, seed=0)


@pytest.mark.parametrize(
    ("settings", "said_"),
    [
        ({"alpha": 1.5}, "alpha=1.5: expected"),
        ({"folds": 0}, "folds=0: expected"),
        ({"filters": 0, "epochs": 0}, "filters=0 and epochs=0: expected one of them above 0"),
    ],
)
def test_refuses_settings_that_make_no_repair(settings, said_):
    with pytest.raises(ValueError, match=said_):
        GradPrune(**settings)
