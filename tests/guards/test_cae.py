from dataclasses import dataclass

import pytest
import torch

from bezoar.attacks import FGSM, PGD
from bezoar.defence import Evidence
from bezoar.guards import CAE
from bezoar.models import create
from bezoar.referee import measure
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=6)(made, digits.train, digits.validation, seed=0)
    return made


@pytest.fixture(scope="module")
def guarded(digits, network):
    guard = CAE(inner=(FGSM(eps=0.2),), epochs=12, batch=32, code=24, lam=0.02, lr=3e-3)
    return guard(network, Evidence(digits.train, digits.validation), seed=0)


def test_who_ignores_the_guard_fools_fewer_and_who_knows_it_more(digits, network, guarded):
    attack, model = FGSM(eps=0.2), guarded.classifier
    alone = measure(attack, network, digits.test, seed=0).facts.robust_accuracy
    ignored = measure(attack, model, digits.test, seed=0, aim=network)
    known = measure(PGD(eps=0.2, steps=20), model, digits.test, seed=0)
    assert ignored.stamp.access == "transfer"
    assert known.stamp.access == "white-box"
    assert ignored.facts.robust_accuracy.interval[0] > alone.interval[1]
    assert known.facts.robust_accuracy.interval[1] < ignored.facts.robust_accuracy.interval[0]


def test_the_best_epoch_on_validation_is_kept(digits, guarded):
    scores = [row["clean"] + row["robust"] for row in guarded.log[1:]]
    assert max(scores) > guarded.log[0]["clean"] + guarded.log[0]["robust"]
    x, y = digits.validation.batch(slice(None))
    with torch.no_grad():
        clean = (guarded.classifier(x).argmax(dim=1) == y).double().mean().item()
    assert clean == pytest.approx(guarded.log[1 + scores.index(max(scores))]["clean"])


def test_who_ignores_the_guard_makes_each_image_once(digits, network):
    images = Evidence(digits.train.first(64), digits.validation.first(16))
    cost = {"inner": (FGSM(eps=0.2),), "clean": 0.0, "epochs": 3}
    ignored = CAE(**cost)(network, images, seed=0).cost
    known = CAE(**cost, through=True)(network, images, seed=0).cost
    # A pass each way an image and an epoch to learn; two an image and a look to judge; FGSM's own.
    assert ignored.backward == 3 * 64 + (64 + 16)
    assert known.backward == 3 * 64 + (3 * 64 + 4 * 16)


def test_each_attack_is_made_for_its_part_of_a_batch(digits, network):
    seen = []

    @dataclass(frozen=True)
    class Noted(FGSM):
        def start(self, x, oracle, noise):
            seen.append((self.eps, len(x)))
            return super().start(x, oracle, noise)

    attacks = (Noted(eps=0.1), Noted(eps=0.2), Noted(eps=0.3))
    images = Evidence(digits.train.first(32), digits.validation.first(3))
    CAE(inner=attacks, clean=0.5, epochs=1, batch=32)(network, images, seed=0)
    judged = [(0.1, 1), (0.2, 1), (0.3, 1)]
    assert seen == [*judged, (0.1, 6), (0.2, 5), (0.3, 5)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clean": 1.5}, "clean=1.5: expected a number in"),
        ({"lam": -1}, "lam=-1: expected a number at least 0"),
        ({"sigma": float("nan")}, "sigma=nan: expected a number at least 0"),
        ({"inner": ()}, "expected at least one attack"),
        ({"schedule": "cosin"}, "schedule 'cosin': expected one of"),
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        CAE(**fields)
