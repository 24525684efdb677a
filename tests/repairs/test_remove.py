"""Remove: which images go, when, and what is trained on the rest."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from bezoar import models
from bezoar.attacks import FGSM
from bezoar.classifier import weights_hash
from bezoar.defence import Evidence
from bezoar.models import create, restart
from bezoar.repairs import AtRandom, Remove, Stop
from bezoar.repairs.remove import Removal

EPS = 0.2
TWINS = FGSM(eps=EPS)
ROUNDS = Stop(rounds=3, target=2, judge=FGSM(), images=10)


def kept(removal):
    return set(removal.state_dict()["kept"].tolist())


def hardest(network, images, count):
    """Rows whose FGSM twin has the highest loss, one image at a time."""
    losses = []
    for x, y in zip(*images.batch(slice(None)), strict=True):
        x, y = x[None].requires_grad_(), y[None]
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), y), x)
        x_adv = (x + EPS * gradient.sign()).clamp(0, 1)
        losses.append(F.cross_entropy(network(x_adv), y).item())
    return set(torch.tensor(losses).topk(count).indices.tolist())


def test_in_trains_index_space_the_images_with_the_worst_twins_go(network, evidence):
    removal = Removal(Remove(attack=TWINS, k=7, stop=ROUNDS), network, evidence, 0)
    expected = set(range(40)) - hardest(network, evidence.train, 7)
    assert removal.begin(0) == 33
    assert kept(removal) == expected


def test_in_the_papers_index_space_train_loses_the_positions_of_validation(network, evidence):
    repair = Remove(attack=TWINS, k=7, index_space="paper", stop=ROUNDS)
    removal = Removal(repair, network, evidence, 0)
    expected = set(range(40)) - hardest(network, evidence.validation, 7)
    removal.begin(0)
    assert kept(removal) == expected


def test_in_the_papers_index_space_positions_beyond_validation_are_safe(network, digits):
    few = Evidence(digits.train.first(40), digits.validation.first(5))
    repair = Remove(attack=TWINS, k=4, index_space="paper", epochs=1, stop=ROUNDS)
    removal = Removal(repair, network, few, 0)
    assert [removal.begin(epoch) for epoch in range(3)] == [36, 35, 35]
    assert kept(removal) == set(range(5, 40))


def test_a_longer_validation_split_cannot_drop_what_train_does_not_have(network, digits):
    many = Evidence(digits.train.first(10), digits.validation.first(40))
    repair = Remove(attack=TWINS, k=3, index_space="paper", epochs=1, stop=ROUNDS)
    removal = Removal(repair, network, many, 0)
    assert [removal.begin(epoch) for epoch in range(3)] == [7, 4, 1]


@pytest.mark.parametrize("space", ["paper", "train"])
@pytest.mark.parametrize("rank", [Remove().rank, AtRandom()], ids=repr)
def test_every_round_drops_others_and_only_at_its_start(network, evidence, space, rank):
    repair = Remove(attack=TWINS, k=4, index_space=space, rank=rank, epochs=2, stop=ROUNDS)
    removal = Removal(repair, network, evidence, 0)
    sizes, sets = [], [set(range(40))]
    for epoch in range(6):
        sizes.append(removal.begin(epoch))
        sets.append(kept(removal))
    assert sizes == [36, 36, 32, 32, 28, 28]
    assert all(later <= earlier for earlier, later in pairwise(sets))
    assert removal.removed == 12


def test_below_one_k_is_a_share_of_all_training_images_each_round(network, evidence):
    repair = Remove(attack=TWINS, k=0.1, epochs=1, stop=ROUNDS)
    removal = Removal(repair, network, evidence, 0)
    assert [removal.begin(epoch) for epoch in range(3)] == [36, 32, 28]


def test_k_of_zero_drops_nothing_and_attacks_nothing(network, evidence):
    removal = Removal(Remove(attack=TWINS, k=0, stop=ROUNDS), network, evidence, 0)
    assert removal.begin(0) == 40
    assert removal.meter.passes == 0


def test_random_images_go_unseen(network, evidence):
    removal = Removal(Remove(rank=AtRandom(), k=5, stop=ROUNDS), network, evidence, 0)
    assert removal.begin(0) == 35
    assert removal.meter.passes == 0


def test_random_images_of_one_seeds_second_round_are_not_those_of_the_next_seeds_first(
    network, evidence
):
    repair = Remove(rank=AtRandom(), k=10, index_space="paper", epochs=1, stop=ROUNDS)
    first, second = (Removal(repair, network, evidence, seed) for seed in (0, 1))
    first.begin(0)
    before = kept(first)
    first.begin(1)
    second.begin(0)
    assert before - kept(first) != set(range(40)) - kept(second)


@pytest.mark.parametrize(("k", "rounds"), [(40, 1), (14, 3), (0.5, 2), (1e9, 1)])
def test_more_than_there_is_is_refused_before_anything_is_trained(network, evidence, k, rounds):
    repair = Remove(k=k, stop=Stop(rounds=rounds))
    with pytest.raises(ValueError, match=rf"k={k!r} in {rounds} rounds: .* fewer than the 40"):
        repair(network, evidence, seed=0)


def test_from_scratch_every_round_starts_again_with_new_weights(digits, evidence):
    network = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    repair = Remove(attack=TWINS, k=3, epochs=1, stop=ROUNDS)
    removal = Removal(repair, network, evidence, 5)
    fresh = create("lenet-fig4", shape=digits.shape, classes=10, seed=1)
    restart(fresh, seed=5)
    removal.begin(0)
    assert weights_hash(removal.model) == weights_hash(fresh)
    removal.step(torch.arange(16), 0.0)
    assert weights_hash(removal.model) != weights_hash(fresh)
    removal.begin(1)
    assert weights_hash(removal.model) == weights_hash(fresh)
    assert not removal.state_dict()["learning"]["optimizer"]["state"]


def test_continued_every_round_goes_on_with_weights_and_optimizer(network, evidence):
    repair = Remove(attack=TWINS, k=3, retrain="continue", epochs=1, stop=ROUNDS)
    removal = Removal(repair, network, evidence, 0)
    removal.begin(0)
    removal.step(torch.arange(16), 0.0)
    before = weights_hash(removal.model)
    removal.begin(1)
    assert weights_hash(removal.model) == before
    assert removal.state_dict()["learning"]["optimizer"]["state"]


@pytest.mark.parametrize("rounds", [3, 22, 49])
def test_the_schedule_runs_through_each_round(network, evidence, rounds):
    # 15 / 22 * 22 is just below 15 in floating point: it must not read as the end of round 14.
    stop = Stop(rounds=rounds, target=2)
    repair = Remove(k=0, epochs=1, schedule="cosine", lr=0.01, retrain="continue", stop=stop)
    removal = Removal(repair, network, evidence, 0)
    rates = []
    for epoch in range(rounds):
        removal.begin(epoch)
        removal.step(torch.arange(16), epoch / rounds)
        rates.append(removal.state_dict()["learning"]["optimizer"]["param_groups"][0]["lr"])
    assert rates == pytest.approx([0.01] * rounds)


def test_the_model_of_the_last_round_is_handed_back_good_or_bad(network, evidence):
    stop = Stop(rounds=2, target=2, judge=FGSM(eps=0.05), images=40)
    repaired = Remove(k=15, epochs=1, lr=1e-5, batch=16, stop=stop)(network, evidence, seed=0)
    x, y = evidence.validation.batch(slice(None))
    clean = (repaired.classifier(x).argmax(dim=1) == y).double().mean().item()
    assert repaired.log[-1]["clean"] == pytest.approx(clean)
    assert clean < repaired.log[0]["clean"]


def test_stops_after_the_round_that_meets_the_target(evidence):
    network = models.create("lenet-fig4", shape=evidence.train.shape, classes=10, seed=0)

    def log(target):
        stop = Stop(rounds=5, target=target, judge=FGSM(eps=0.01))
        remove = Remove(k=2, epochs=2, retrain="continue", lr=0.01, stop=stop)
        return remove(network, evidence, seed=0).log

    robust = [row["robust"] for row in log(2)]
    assert robust[0] < max(robust)
    met = robust.index(max(robust))
    assert [row["removed"] for row in log(max(robust))] == [2 * k for k in range(met + 1)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": -1}, "k=-1"),
        ({"k": float("nan")}, "k=nan"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 0}, "batch=0"),
        ({"lr": -1}, "lr=-1"),
        ({"index_space": "papers"}, "did you mean 'paper'"),
        ({"retrain": "scratsh"}, "did you mean 'scratch'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Remove(**setting)
