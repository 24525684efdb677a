import numpy as np
import pytest
import torch
from torch import nn

from bezoar import matrix
from bezoar.attacks import DDN, FGSM, PGD
from bezoar.classifier import weights_hash
from bezoar.matrix import ACCESSES, Look, compared, referee, rescored, straight
from bezoar.models import Purified, create
from bezoar.referee import Measurement
from bezoar.results import Facts
from bezoar.training import Training


class Rounded(nn.Module):
    """Steps of a half: no gradient anywhere, which is what masks one."""

    def forward(self, x):
        return (2 * x).round() / 2


class Declared(Rounded):
    def surrogate(self, x):
        return x


class Halved(nn.Module):
    """Exact gradient, of a half."""

    def forward(self, x):
        return x / 2


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=6)(made, digits.train, digits.validation, seed=0)
    return made.eval()


def whole(judge):
    facts, x_adv = zip(*judge, strict=True)
    return Measurement(judge.stamp, Facts.joined(facts), np.concatenate(x_adv))


def measured(look, guarded, images, **more):
    return whole(referee(look, guarded, images, seed=0, **more))


def test_each_attacker_has_the_weights_that_he_knows(digits, network):
    guarded = Purified(purifier=Halved(), network=network)
    other = create("lenet-fig4", shape=digits.shape, classes=10, seed=1)
    images = digits.test.first(20)
    known = {"adaptive": guarded, "greybox": network, "bpda": guarded, "transfer": other}
    assert list(known) == list(ACCESSES)
    for access, aim in known.items():
        judge = referee(Look(FGSM(eps=0.1), access), guarded, images, seed=0, other=other)
        assert judge.stamp.made_on == weights_hash(aim)
        assert judge.stamp.scored_on == weights_hash(guarded)
        prefix = "" if access == "adaptive" else f"{access}:"
        assert judge.stamp.metric == f"{prefix}fgsm@0.1"


def test_a_masked_gradient_is_seen_by_who_takes_the_guard_for_the_identity(digits, network):
    guarded, images = Purified(purifier=Rounded(), network=network), digits.test.first(100)
    masked = measured(Look(PGD(eps=0.3, steps=10)), guarded, images)
    bpda = measured(Look(PGD(eps=0.3, steps=10), "bpda"), guarded, images)
    assert masked.facts.zero_gradient[masked.facts.open].all()
    assert not bpda.facts.zero_gradient.any()
    assert bpda.stamp.access == "white-box"
    high = bpda.facts.robust_accuracy.interval[1]
    assert high < masked.facts.robust_accuracy.interval[0]


def test_the_copy_for_bpda_is_the_same_network_and_the_guard_stays_as_it_is(network):
    guarded = Purified(purifier=Rounded(), network=network)
    copy = straight(guarded)
    assert weights_hash(copy) == weights_hash(guarded)
    assert not hasattr(guarded.purifier, "surrogate")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(copy(x), guarded(x))


def test_where_there_is_no_such_attacker_there_is_no_cell(digits, network):
    images, attack = digits.test.first(4), FGSM(eps=0.1)
    declared = Purified(purifier=Declared(), network=network)
    assert referee(Look(attack, "greybox"), network, images, seed=0) is None
    assert referee(Look(attack, "bpda"), network, images, seed=0) is None
    assert referee(Look(attack, "bpda"), declared, images, seed=0) is None


def test_images_of_who_does_not_know_the_guard_are_shown_to_another_one(digits, network):
    look, few = Look(PGD(eps=0.2, steps=3), "greybox"), digits.test.first(10)
    first = Purified(purifier=Halved(), network=network)
    second = Purified(purifier=Rounded(), network=network)
    made = measured(look, first, digits.test.first(30))
    judge = referee(look, second, few, seed=0)
    found, anew = rescored(judge, second, few, made), whole(judge)
    assert np.array_equal(found.x_adv, made.x_adv[:10])
    # Batches of another size round sums in another order.
    np.testing.assert_allclose(found.x_adv, anew.x_adv, atol=1e-6)
    for name, column in anew.facts.columns().items():
        if column.dtype != np.float32:
            assert np.array_equal(getattr(found.facts, name), column), name


def test_images_of_another_attacker_are_refused(digits, network):
    look, images = Look(FGSM(eps=0.2), "greybox"), digits.test.first(5)
    guarded = Purified(purifier=Halved(), network=network)
    made = measured(look, guarded, images)
    for other, said in (
        (Look(FGSM(eps=0.1), "greybox"), "images with recipe="),
        (Look(FGSM(eps=0.2)), "images with made_on="),
    ):
        with pytest.raises(ValueError, match=said):
            rescored(referee(other, guarded, images, seed=0), guarded, images, made)
    later = digits.test.take(np.arange(1, 6))
    with pytest.raises(ValueError, match="images of other positions"):
        rescored(referee(look, guarded, later, seed=0), guarded, later, made)


def test_the_whole_matrix_has_a_row_a_cell(digits, network):
    guarded = Purified(purifier=Halved(), network=network)
    looks = [Look(FGSM(eps=0.1)), Look(FGSM(eps=0.1), "greybox"), Look(FGSM(eps=0.1), "bpda")]
    table = compared(
        {"none": network, "halved": guarded},
        looks,
        digits.test.first(20),
        seed=0,
        measure=lambda case, judge: whole(judge),
    )
    cells = [(row["case"], row["metric"]) for row in table]
    names = ["clean", "fgsm@0.1", "greybox:fgsm@0.1", "bpda:fgsm@0.1"]
    assert cells == [("none", name) for name in names[:2]] + [("halved", name) for name in names]
    assert all(row["n"] == 20 for row in table)


@pytest.mark.parametrize(
    ("access", "said"),
    [("transfer", "expected the attacker's own network"), ("grey", "access='grey': expected one")],
)
def test_an_attacker_that_cannot_be_is_refused(digits, network, access, said):
    with pytest.raises(ValueError, match=said):
        referee(Look(FGSM(eps=0.1), access), network, digits.test.first(4), seed=0)


def test_distances_of_who_knows_the_guard_are_in_the_table(digits, network):
    images = digits.test.first(20)
    found = measured(Look(DDN(steps=20)), network, images)
    table = matrix.rows("none", 0, {"ddn20": found})
    assert [row["metric"] for row in table] == ["clean", "ddn20", "found:ddn20", "median:l2"]
    assert table[1]["value"] == 0
