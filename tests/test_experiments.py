"""Experiments as calls, where the command line does not reach."""

from dataclasses import dataclass

import pytest

from bezoar import checkpoints, experiments, trees
from bezoar.attacks import FGSM, PGD, Admix, Universal
from bezoar.classifier import weights_hash
from bezoar.defence import Defended
from bezoar.experiments import Plan
from bezoar.files import read_json
from bezoar.models import create
from bezoar.repairs import Correct, Stop
from bezoar.runs import Run
from bezoar.sanity import Warning

NOTES = {"command": "bezoar", "version": "0", "revision": "abc", "machine": "2 cores"}
PLAN = Plan(eps=0.1, attacks=(FGSM(eps=0.1), PGD(eps=0.1, steps=2)))
METHOD = Correct(inner=FGSM(), stop=Stop(rounds=1, target=2, judge=FGSM(), images=20))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", {"title": "forty"}, NOTES)


@dataclass(frozen=True)
class Counted:
    """A repair that counts its calls."""

    calls: list[int]

    def __call__(self, classifier, evidence, *, seed, snapshot=None, on_step=None):
        self.calls.append(seed)
        return METHOD(classifier, evidence, seed=seed)


def test_a_repair_sees_training_and_validation_only(run, few, untrained):
    seen = []

    class Spy(Counted):
        def __call__(self, classifier, evidence, **rest):
            seen.append(vars(evidence))
            return super().__call__(classifier, evidence, seed=rest["seed"])

    experiments.repair(run, untrained, few, Spy([]), PLAN)
    nothing = {"trigger": None, "suspects": None}
    assert seen == [{"train": few.train, "validation": few.validation, **nothing}]


def test_the_model_that_came_in_is_not_changed(run, few, untrained):
    before = weights_hash(untrained)
    experiments.repair(run, untrained, few, METHOD, PLAN)
    assert weights_hash(untrained) == before
    assert weights_hash(checkpoints.load(run.path / "before.safetensors").model) == before
    assert weights_hash(checkpoints.load(run.path / "after.safetensors").model) != before


def test_a_repair_that_is_done_is_not_done_again(run, few, untrained):
    method = Counted([])
    first = experiments.repair(run, untrained, few, method, PLAN)
    assert experiments.repair(run, untrained, few, method, PLAN) == first
    assert method.calls == [PLAN.seed]


def test_a_repair_that_fails_leaves_what_was_measured_before_it(run, few, untrained):
    class Broken(Counted):
        def __call__(self, *_, **__) -> Defended:
            raise FloatingPointError("loss=nan")

    with pytest.raises(FloatingPointError):
        experiments.repair(run, untrained, few, Broken([]), PLAN)
    assert not (run.path / "after.safetensors").exists()
    assert not (run.path / "results.json").exists()
    told = []
    experiments.repair(run, untrained, few, METHOD, PLAN, on_unit=lambda *word: told.append(word))
    assert ("fgsm@0.1, before", 1, 1) in told


class TestFitted:
    ATTACKS = (Universal(eps=0.1, epochs=2), Admix(eps=0.1, steps=2, pool=20))
    PLAN = Plan(eps=0.1, attacks=ATTACKS)

    def recipes(self, run):
        stamps = run.path.glob("measurements/*/*/stamp.json")
        return {stamp.parent.name: read_json(stamp)["recipe"] for stamp in stamps}

    def attack(self, run, untrained, few, plan=PLAN, **more):
        return experiments.attack(run, untrained, few.test, plan, **more)

    def test_attacks_see_validation_images_first(self, run, few, untrained):
        self.attack(run, untrained, few, validation=few.validation)
        fitted = [a.fit(untrained, few.validation, seed=0) for a in self.ATTACKS]
        assert self.recipes(run) == dict(
            zip(("universal@0.1", "admix2@0.1"), map(repr, fitted), strict=True)
        )

    def test_what_they_learnt_is_kept_and_gone_on_with(self, run, few, untrained, monkeypatch):
        first = self.attack(run, untrained, few, validation=few.validation)
        kept = {path.name: path.read_bytes() for path in run.path.glob("fits/*")}
        assert sorted(name.partition("-")[0] for name in kept) == ["admix2@0.1", "universal@0.1"]
        (run.path / "measurements" / "before" / "universal@0.1" / "000000.safetensors").unlink()
        monkeypatch.setattr(Universal, "fit", pytest.fail)
        monkeypatch.setattr(Admix, "fit", pytest.fail)
        assert self.attack(run, untrained, few, validation=few.validation) == first
        assert {path.name: path.read_bytes() for path in run.path.glob("fits/*")} == kept

    def test_who_knows_other_weights_learns_from_those(self, run, few, untrained):
        other = create("lenet-fig4", shape=few.shape, classes=10, seed=1)
        plan = Plan(eps=0.1, attacks=self.ATTACKS[:1])
        self.attack(run, untrained, few, plan, validation=few.validation, surrogate=other)
        found = self.recipes(run)
        assert set(found) == {"universal@0.1", "transfer:universal@0.1"}
        expected = self.ATTACKS[0].fit(other, few.validation, seed=0)
        assert found["transfer:universal@0.1"] == repr(expected)
        assert found["universal@0.1"] != repr(expected)

    def test_what_other_weights_gave_is_held_against_what_the_own_gave(
        self, run, few, untrained, monkeypatch
    ):
        def accused(own, elsewhere):
            metrics = [[m.stamp.metric for m in group] for group in (own, elsewhere)]
            return [Warning("masked-gradients", str(metrics))]

        monkeypatch.setattr(experiments, "outdone", accused)
        other = create("lenet-fig4", shape=few.shape, classes=10, seed=1)
        plan = Plan(eps=0.1, attacks=(FGSM(eps=0.1),))
        found = self.attack(run, untrained, few, plan, surrogate=other)["warnings"]
        text = "[['fgsm@0.1'], ['transfer:fgsm@0.1']]"
        assert {"case": "before", "kind": "masked-gradients", "text": text} in found

    def test_without_images_to_see_they_are_refused(self, run, few, untrained):
        message = r"Universal\(.*\): expected images to fit it on, found none"
        with pytest.raises(ValueError, match=message):
            self.attack(run, untrained, few)

    def test_on_the_attacked_images_they_are_refused(self, run, few, untrained):
        with pytest.raises(ValueError, match="fitted on digits/test, which it attacks"):
            self.attack(run, untrained, few, validation=few.test)

    @pytest.mark.parametrize("content", [b"", b"{}"])
    def test_a_damaged_file_is_named(self, run, few, untrained, content):
        self.attack(run, untrained, few, validation=few.validation)
        path = next(run.path.glob("fits/universal*"))
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name}: expected a safetensors file"):
            self.attack(run, untrained, few, validation=few.validation)

    def test_a_file_that_holds_something_else_is_named(self, run, few, untrained):
        self.attack(run, untrained, few, validation=few.validation)
        path = next(run.path.glob("fits/universal*"))
        trees.save(path, {"source": "digits/validation", "tensors": {"change": 3}})
        with pytest.raises(ValueError, match=f"{path.name}: expected what an attack has learnt"):
            self.attack(run, untrained, few, validation=few.validation)

    def test_a_repair_fits_them_before_and_after(self, run, few, untrained):
        plan = Plan(eps=0.1, attacks=self.ATTACKS[:1])
        experiments.repair(run, untrained, few, METHOD, plan)
        assert len(list(run.path.glob("fits/*"))) == 2


def test_stale_images_are_scored_as_transfer(run, few, untrained):
    results = experiments.repair(run, untrained, few, METHOD, PLAN)
    rows = {(row["case"], row["metric"]): row for row in results["rows"]}
    assert rows["after", "transfer:fgsm@0.1"]["n"] == 40
    stale = run.path / "measurements" / "after" / "transfer:fgsm@0.1" / "stamp.json"
    assert '"access": "transfer"' in stale.read_text()


def test_data_are_described_by_their_content(few):
    found = experiments.described(few, few.test)
    assert (found["name"], found["train"], found["test"]) == ("digits", 40, 40)
    fewer = experiments.described(few, few.test.first(39))
    assert fewer["hash"] != found["hash"]
    assert experiments.described(few, few.test) == found


def test_settings_name_attacks_and_repair_in_full():
    assert experiments.settings(PLAN) == {
        "eps": 0.1,
        "floor": 0.9,
        "attacks": [repr(FGSM(eps=0.1)), repr(PGD(eps=0.1, steps=2))],
    }
    assert experiments.settings(PLAN, METHOD, paper="x")["repair"] == repr(METHOD)
    assert experiments.settings(PLAN, METHOD, paper="x")["paper"] == "x"
