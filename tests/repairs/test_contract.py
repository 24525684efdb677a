"""What every repair promises, for each of them and each way of setting it up."""

from contextlib import suppress
from copy import deepcopy
from itertools import product

import pytest
import torch

from bezoar.attacks import FGSM, PGD, FGSMRandomStart
from bezoar.classifier import weights_hash
from bezoar.repairs import (
    ABL,
    ANP,
    CLP,
    FTSAM,
    IBAU,
    IMS,
    NAD,
    REPAIRS,
    RNP,
    SAU,
    Accumulate,
    AtRandom,
    ByLot,
    ByRound,
    ByTaylor,
    Correct,
    FinePruning,
    FineTune,
    GradPrune,
    Misclassified,
    NeuralCleanseUnlearning,
    Online,
    Oracle,
    Recovered,
    Remove,
    Repair,
    Stop,
    Surrogate,
    TopLoss,
)
from bezoar.scans import NeuralCleanse

# Two rounds; a judge with a restart, so that its passes differ from image to image.
STOP = Stop(rounds=2, target=2, judge=PGD(eps=0.1, steps=2, restarts=2), images=15)
ATTACKS = [FGSM(eps=0.1), FGSMRandomStart(eps=0.1), PGD(eps=0.1, steps=2)]
CASES = [
    *(
        Correct(twins=twins, inner=inner, batch=16, stop=STOP)
        for twins, inner in product([Online(), ByRound(), Accumulate()], ATTACKS)
    ),
    Correct(select=TopLoss(0.3), inner=FGSM(eps=0.1), batch=16, stop=STOP),
    Correct(select=Misclassified(), inner=FGSM(eps=0.1), batch=16, stop=STOP),
    Correct(select=TopLoss(0.3), twins=Accumulate(), inner=FGSM(eps=0.1), batch=16, stop=STOP),
    Correct(lam=0, inner=FGSM(eps=0.1), batch=16, stop=STOP),
    Correct(lam=1, inner=FGSM(eps=0.1), batch=16, schedule="cosine", stop=STOP),
    *(
        Remove(index_space=space, retrain=retrain, k=3, epochs=2, batch=16, stop=STOP)
        for space, retrain in product(["paper", "train"], ["scratch", "continue"])
    ),
    Remove(k=0.1, epochs=1, batch=16, stop=STOP),
    Remove(k=0, epochs=1, batch=16, stop=STOP),
    Remove(rank=AtRandom(), k=3, epochs=1, batch=16, schedule="cosine", stop=STOP),
    Remove(rank=AtRandom(), k=3, index_space="paper", epochs=1, batch=16, stop=STOP),
]
# Repairs of backdoors, for two rounds or with nothing to learn.
CASES += [
    ABL(isolating=2, share=0.1, epochs=2, batch=16),
    # Disturbed so much that a healthy network loses channels, which ones by the seed.
    *(
        ANP(eps=1, alpha=0, iterations=12, batch=16, momentum=0, tolerance=0.95, **more)
        for more in ({"lr": 1, "statistics": "running"}, {"lr": 5, "steps": 2})
    ),
    CLP(u=0.5),
    FinePruning(tolerance=0.3, epochs=2, batch=16),
    FineTune(epochs=2, batch=16),
    FTSAM(epochs=2, batch=16),
    *(
        GradPrune(source=source, epochs=2, filters=2, patience=2, batch=16, folds=folds, **more)
        for source, folds, more in (
            (Oracle(), 3, {}),
            (Oracle(), 1, {"still": False, "learn": "clean", "judge": "clean"}),
            (Oracle(), 2, {"score": ByLot(), "masked": False}),
            (Recovered(scan=NeuralCleanse(epochs=10, batch=16, success=0.5)), 2, {}),
            (Surrogate(eps=0.3, steps=4, rows=30), 2, {"score": ByTaylor()}),
        )
    ),
    IBAU(rounds=2, epochs=2, batch=16, steps=2),
    IMS(first=6, second=3, batch=16, steps=2),
    NAD(teacher_epochs=2, epochs=2, batch=16),
    NeuralCleanseUnlearning(
        scan=NeuralCleanse(epochs=8, batch=20, success=0.3), always=True, epochs=2, batch=16
    ),
    RNP(
        unlearn_epochs=2,
        unlearn_lr=0.05,
        recover_epochs=2,
        recover_lr=0.5,
        alpha=1,
        batch=16,
        tolerance=0.3,
    ),
    SAU(epochs=2, batch=16, steps=2),
]
# What they do follows from the network and the images alone.
STILL: set[type[Repair]] = {CLP}
COST = {"images", "forward", "backward", "seconds"}


def test_every_repair_in_the_table_has_a_case():
    assert {type(case) for case in CASES} == set(REPAIRS.values())


@pytest.mark.parametrize("repair", CASES, ids=repr)
class TestContract:
    def test_leaves_classifier_evidence_and_global_rng_alone(self, repair, network, evidence):
        network[0].requires_grad_(False)
        network.train()
        network[1].eval()
        before, state = weights_hash(network), torch.get_rng_state()
        splits = (evidence.train, evidence.validation, evidence.suspects)
        pixels = [split.pixels.clone() for split in splits]
        repaired = repair(network, evidence, seed=0)
        assert weights_hash(network) == before != weights_hash(repaired.classifier)
        assert [module.training for module in network] == [True, False, True, True, True, True]
        assert [p.requires_grad for p in network.parameters()] == [False] * 2 + [True] * 4
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(map(torch.equal, (split.pixels for split in splits), pixels))
        assert torch.equal(torch.get_rng_state(), state)

    def test_same_seed_same_weights_and_log_to_the_bit_and_another_seed_others(
        self, repair, network, evidence
    ):
        first, second, other = (repair(deepcopy(network), evidence, seed=s) for s in (7, 7, 8))
        assert weights_hash(first.classifier) == weights_hash(second.classifier)
        assert list(map(untimed, first.log)) == list(map(untimed, second.log))
        same = weights_hash(first.classifier) == weights_hash(other.classifier)
        assert same == (type(repair) in STILL)

    def test_the_log_has_a_row_for_what_came_in_and_one_a_round(self, repair, network, evidence):
        log = repair(network, evidence, seed=0).log
        assert [row["round"] for row in log] == list(range(len(log)))
        assert len(log) > 1
        assert all({"clean", *COST} <= set(row) for row in log)
        assert all(0 <= row["clean"] <= 1 for row in log)
        assert all(type(value) is float for row in log for value in row.values())
        spent = [[row[name] for row in log] for name in COST]
        assert all(column == sorted(column) for column in spent)
        assert log[0]["images"] == 0

    def test_every_pass_through_the_network_is_counted(self, repair, counted, evidence):
        network, passes = counted
        repaired = repair(network, evidence, seed=0)
        assert repaired.cost.forward == sum(passes.forward)
        assert repaired.cost.backward == sum(passes.backward)
        assert repaired.log[-1] == {**repaired.log[-1], **repaired.cost.as_dict()}
        assert repaired.cost.passes == repaired.cost.forward + repaired.cost.backward

    def test_hands_back_a_classifier_in_eval_mode(self, repair, network, evidence):
        repaired = repair(network.train(), evidence, seed=0).classifier
        assert not any(module.training for module in repaired.modules())
        x, _ = evidence.validation.batch(slice(None))
        assert torch.isfinite(repaired(x)).all()

    def test_goes_on_to_the_bit_where_it_was_killed(self, repair, network, evidence, kept):
        whole, place = repair(network, evidence, seed=0), kept(1)
        with suppress(KeyboardInterrupt):  # one that learns nothing is done before it saves
            repair(network, evidence, seed=0, snapshot=place)
        found = repair(network, evidence, seed=0, snapshot=place)
        assert weights_hash(found.classifier) == weights_hash(whole.classifier)
        assert list(map(untimed, found.log)) == list(map(untimed, whole.log))
        assert found.cost.passes == whole.cost.passes


def test_the_older_repairs_log_what_they_judge_by(network, evidence):
    repaired = repair_of_digits(network, evidence)
    judged = {"round", "clean", "robust", "added", "removed"}
    assert [set(row) - {"score", "loss"} for row in repaired.log] == [judged | COST] * 3
    assert repaired.log[0]["added"] == repaired.log[0]["removed"] == 0


def repair_of_digits(network, evidence):
    return Correct(inner=FGSM(eps=0.1), batch=16, stop=STOP)(network, evidence, seed=0)


@pytest.mark.parametrize("repair", [CASES[0], *CASES[-1:]], ids=repr)
def test_tells_its_progress(repair, network, evidence):
    told = []
    repair(network, evidence, seed=0, on_step=told.append)
    assert (told[-1].epoch, told[-1].done) == (told[-1].epochs, told[-1].rows)


def untimed(row):
    """A row of a log without the wall time, which no two runs share."""
    return {name: value for name, value in row.items() if name != "seconds"}
