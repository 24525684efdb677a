"""A repair that is good against one step only is found out, on a real training run."""

from copy import deepcopy

import pytest
from torch import nn

from bezoar.attacks import FGSM, PGD
from bezoar.defence import Evidence
from bezoar.models.initial import initialise
from bezoar.referee import measure
from bezoar.repairs import Correct, Online, Stop
from bezoar.sanity import warnings
from bezoar.seeds import generator
from bezoar.training import Training

EPS = 0.3
ONE_STEP, MANY_STEPS = FGSM(eps=EPS), PGD(eps=EPS, steps=20)


@pytest.fixture(scope="module")
def sick(digits):
    """A network without convolutions, well trained on clean digits."""
    layers = (nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    model = nn.Sequential(nn.Flatten(), *layers)
    initialise(model, generator(0, "tests", "overfitting"))
    Training(epochs=10, batch=64, lr=2e-3)(model, digits.train, digits.validation, seed=0)
    return model


def measured(sick, digits, inner, rounds):
    stop = Stop(rounds=rounds, target=2, judge=ONE_STEP, images=200)
    repair = Correct(inner=inner, twins=Online(), lam=1.0, lr=3e-3, batch=64, stop=stop)
    evidence = Evidence(digits.train, digits.validation)
    repaired = repair(deepcopy(sick), evidence, seed=0).classifier
    one, many = (
        measure(attack, repaired, digits.test, seed=0) for attack in (ONE_STEP, MANY_STEPS)
    )
    suspicions = [warning.kind for warning in warnings([one, many], classes=10)]
    return (one.facts.robust_accuracy.value, many.facts.robust_accuracy.value, suspicions)


def test_a_repair_that_overfits_to_one_step_is_accused_of_masked_gradients(sick, digits):
    one, many, suspicions = measured(sick, digits, FGSM(eps=EPS), rounds=80)
    assert one > 0.4
    assert many < 0.1
    assert "masked-gradients" in suspicions


def test_the_same_network_repaired_with_many_steps_inside_is_not_accused(sick, digits):
    one, many, suspicions = measured(sick, digits, PGD(eps=EPS, steps=5), rounds=40)
    assert one > many > 0.15
    assert not suspicions
