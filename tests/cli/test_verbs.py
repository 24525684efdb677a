"""The whole path in one folder: train, attack, check, report, repair."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from bezoar import checkpoints, cli
from bezoar.report.tables import validate
from bezoar.runs.folder import read_arrays, write_arrays

FEW = ("--images", "20", "--attack", "fgsm", "--attack", "pgd:steps=3")
ATTACK = ("attack", "base.safetensors", *FEW, "--out", "run")
REPAIR = ("repair", "base.safetensors", *FEW, "--rounds", "1", "--inner", "fgsm", "--out", "run")


def results(run):
    return json.loads((run / "results.json").read_text())


def values(run):
    return {(row["case"], row["metric"]): row["value"] for row in results(run)["rows"]}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def adversarial(run, metric):
    return read_arrays(run / "measurements" / "before" / metric / "000000.safetensors")["x_adv"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trained):
    """A finished repair, and the model that came in beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(trained, folder / "base.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run([*REPAIR]) == 1
    return folder


@pytest.fixture
def repaired(finished, work):
    """A copy of it in the current folder."""
    shutil.copytree(finished, work, dirs_exist_ok=True)
    return work / "run"


def test_training_says_how_good_the_model_is_and_is_done_once(work, capsys):
    words = ["train", "lenet-fig4", "--epochs", "1", "--out", "models/new.safetensors"]
    assert cli.run(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("lenet-fig4 on digits: validation accuracy 0.")
    assert said.endswith("after 1 epochs\nmodel: models/new.safetensors\n")
    made = contents(work / "models")
    assert list(made) == ["new.safetensors"]
    assert cli.run(words) == 0
    assert capsys.readouterr().out == said
    assert contents(work / "models") == made


def test_training_starts_from_another_model_with_parts_of_it_frozen(work, npz, capsys):
    own = ["--data", npz("five", labels=np.arange(60) % 5), "--epochs", "1"]
    words = ["train", "lenet-fig3", *own, "--init", "base.safetensors", "--freeze", "conv1,conv2"]
    assert cli.run([*words, "--out", "five.safetensors"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("not taken over from base.safetensors: output.weight, output.bias\n")
    base, five = (checkpoints.load(work / f"{name}.safetensors").model for name in ("base", "five"))
    assert torch.equal(five.conv2.weight, base.conv2.weight)
    assert not torch.equal(five.hidden.weight, base.hidden.weight)
    assert cli.run([*words, "--out", "five.safetensors"]) == 0
    assert capsys.readouterr().out == said


def test_an_attack_leaves_results_a_report_and_the_evidence(work, capsys):
    assert cli.run([*ATTACK]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "before: worst-case robust accuracy at eps 0.1 at least 90.0%: " in said.out
    assert said.out.endswith(": not met\nreport: run/report.html\n")
    found = values(work / "run")
    assert found["before", "robust@0.1"] <= found["before", "pgd3@0.1"]
    assert found["before", "robust@0.1"] <= found["before", "fgsm@0.1"]
    assert found["before", "fgsm@0.1"] <= found["before", "clean"]
    assert len(validate(results(work / "run"))) == 8
    assert {name for name in contents(work / "run") if name.startswith(("report", "tables"))} == {
        "report.html",
        "tables/results.csv",
        "tables/results.tex",
    }
    assert np.abs(adversarial(work / "run", "fgsm@0.1")).max() <= 1


def test_attacks_that_see_other_images_first_see_those_for_validation(work, capsys):
    words = [*ATTACK[:4], "--attack", "universal:epochs=2", "--attack", "admix:steps=2", *FEW[2:]]
    assert cli.run([*words, "--out", "run"]) == 1
    found = values(work / "run")
    assert found["before", "admix2@0.1"] < found["before", "clean"]
    stamp = work / "run" / "measurements" / "before" / "universal@0.1" / "stamp.json"
    assert "from digits/validation)" in json.loads(stamp.read_text())["recipe"]
    before = contents(work / "run")
    assert cli.run([*words, "--out", "run"]) == 1
    assert contents(work / "run") == before
    assert cli.run(["check", "run", "--model", "base.safetensors"]) == 0


class TestSurrogates:
    @pytest.fixture
    def surrogates(self, work, surrogate_files):
        for path in surrogate_files:
            shutil.copy(path, work)
        return ["--surrogate", "one.safetensors", "--surrogate", "two.safetensors"]

    @pytest.mark.parametrize("count", [1, 2])
    def test_what_fools_them_is_shown_to_the_model(self, work, surrogates, count):
        assert cli.run([*ATTACK, *surrogates[: 2 * count]]) == 1
        found = values(work / "run")
        for metric in ("fgsm@0.1", "pgd3@0.1"):
            assert found["before", metric] <= found["before", f"transfer:{metric}"]
            assert found["before", f"transfer:{metric}"] <= found["before", "clean"]
        stamp = work / "run" / "measurements" / "before" / "transfer:pgd3@0.1" / "stamp.json"
        assert json.loads(stamp.read_text())["access"] == "transfer"
        assert cli.run(["check", "run", "--model", "base.safetensors"]) == 0

    def test_they_do_not_touch_the_verdict_and_the_checks(self, work, surrogates):
        cli.run([*ATTACK])
        cli.run([*ATTACK[:-1], "with", *surrogates])
        alone, beside = results(work / "run"), results(work / "with")
        assert beside["verdict"] == alone["verdict"]
        assert beside["warnings"] == alone["warnings"]
        own = [row for row in beside["rows"] if "transfer:" not in row["metric"]]
        assert [row for row in own if row["metric"] != "passes:measuring"] == [
            row for row in alone["rows"] if row["metric"] != "passes:measuring"
        ]

    @pytest.mark.usefixtures("work")
    def test_other_surrogates_are_another_run(self, surrogates, capsys):
        cli.run([*ATTACK, *surrogates])
        assert cli.run([*ATTACK, *surrogates[:2]]) == 2
        assert "run holds another run: settings.surrogate." in capsys.readouterr().err


NEAREST = ("attack", "base.safetensors", "--images", "20", "--eps", "0.5", "--out", "run")


def test_distances_are_told_found_again_and_taken_up(work, capsys):
    words = [*NEAREST, "--attack", "deepfool", "--attack", "ddn:steps=20"]
    assert cli.run(words) == 1
    said = capsys.readouterr().out
    assert "\nmedian:l2 " in said
    assert "worst-case robust accuracy at l2 eps 0.5 at least 90.0%: " in said
    found = values(work / "run")
    worst = found["before", "robust-l2@0.5"]
    assert worst <= min(found["before", "deepfool50@0.5"], found["before", "ddn20@0.5"])
    assert found["before", "median:l2"] <= found["before", "median:deepfool50"]
    before = contents(work / "run")
    assert cli.run(words) == 1
    assert contents(work / "run") == before
    assert cli.run(["check", "run", "--model", "base.safetensors"]) == 0
    page = (work / "run" / "report.html").read_text()
    assert "numbers-disagree" not in page
    assert "The worst case of ddn20, deepfool50, image by image." in page


def test_distances_in_linf_count_in_the_worst_case_at_eps(work):
    few = ["--attack", "fgsm", "--attack", "fmn:steps=50", "--attack", "deepfool"]
    cli.run(["attack", "base.safetensors", "--images", "20", *few, "--out", "run"])
    found = values(work / "run")
    assert found["before", "robust@0.1"] <= found["before", "fmn50@0.1"]
    assert found["before", "robust@0.1"] <= found["before", "fgsm@0.1"]
    assert ("before", "deepfool50@0.1") not in found  # it is in L2
    assert {"median:linf", "median:l2"} <= {metric for _, metric in found}
    assert "numbers-disagree" not in (work / "run" / "report.html").read_text()


def test_a_sweep_and_distances_make_one_curve_that_falls(work):
    sweep = ["--attack", "pgd:steps=3,eps=0.05", "--attack", "fgsm", "--attack", "fmn:steps=50"]
    words = ["attack", "base.safetensors", "--images", "20", *sweep, "--curve", "0.02,0.2"]
    cli.run([*words, "--out", "run"])
    found = values(work / "run")
    points = [found["before", f"robust@{eps}"] for eps in (0.02, 0.05, 0.1, 0.2)]
    assert points == sorted(points, reverse=True)
    assert points[0] > points[-1]
    page = (work / "run" / "report.html").read_text()
    assert "<figcaption><strong>robust</strong></figcaption>" in page
    assert "numbers-disagree" not in page


def test_queries_are_told_of_an_attack_by_scores(work):
    words = ["attack", "base.safetensors", "--images", "20", "--attack", "square:steps=30"]
    cli.run([*words, "--out", "run"])
    found = values(work / "run")
    assert ("before", "success10:square30@0.1") in found
    assert ("before", "success100:square30@0.1") not in found


@pytest.mark.parametrize("target", ["3", "random"])
def test_attacks_may_lead_to_a_class(work, capsys, target):
    words = [*ATTACK[:-2], "--target", target, "--attack", "fmn:steps=50", "--out", "run"]
    assert cli.run(words) in (0, 1)
    said = capsys.readouterr().out
    assert "before: images not led to their target at eps 0.1 at least 90.0%: " in said
    found = values(work / "run")
    assert found["before", "targeted@0.1"] >= found["before", "targeted:pgd3@0.1"]
    assert found["before", "targeted@0.1"] >= found["before", "targeted:fmn50@0.1"]
    assert found["before", "median:linf"] > 0
    rows = {row["metric"]: row for row in results(work / "run")["rows"]}
    labels = read_arrays(work / "run" / "images" / "test.safetensors")["label"]
    assert rows["targeted@0.1"]["n"] == (20 if target == "random" else (labels != 3).sum())
    assert cli.run(["check", "run", "--model", "base.safetensors"]) == 0
    assert "white-box: led to the target " in capsys.readouterr().out
    page = (work / "run" / "report.html").read_text()
    assert "numbers-disagree" not in page
    assert "No white-box attack without a target on it is kept" in page
    before = contents(work / "run")
    assert cli.run(words) in (0, 1)
    assert contents(work / "run") == before


@pytest.fixture
def fast(monkeypatch):
    """A machine on which bfloat16 pays, so that what follows does not depend on this one."""
    monkeypatch.setattr("bezoar.cli.subject.lowering", lambda model, x: 0.5)


def test_an_attack_may_search_in_bfloat16_first(fast, work, capsys):
    words = [*ATTACK[:-2], "--low-precision", "--out", "run"]
    assert cli.run(words) in (0, 1)
    stamps = [json.loads(path.read_text()) for path in (work / "run").rglob("stamp.json")]
    assert {(stamp["attack"], stamp.get("low", "")) for stamp in stamps} >= {
        ("pgd3", "bfloat16"),
        ("fgsm", ""),
    }
    assert cli.run(["check", "run", "--model", "base.safetensors"]) == 0
    before = contents(work / "run")
    assert cli.run(words) in (0, 1)
    assert contents(work / "run") == before


def test_a_repair_may_be_judged_by_distances(work):
    words = ["repair", "base.safetensors", "--images", "10", "--rounds", "1", "--inner", "fgsm"]
    assert cli.run([*words, "--attack", "deepfool", "--eps", "0.5", "--out", "run"]) in (0, 1)
    found = values(work / "run")
    assert {("before", "median:l2"), ("after", "median:l2")} <= set(found)
    assert "numbers-disagree" not in (work / "run" / "report.html").read_text()


@pytest.mark.usefixtures("work")
def test_a_floor_that_is_met_is_exit_code_0():
    assert cli.run([*ATTACK, "--floor", "0"]) == 0


def test_without_out_the_same_settings_have_the_same_folder(work):
    cli.run([*ATTACK[:-2]])
    cli.run([*ATTACK[:-2]])
    cli.run([*ATTACK[:-2], "--seed", "1"])
    assert len(list((work / "runs").iterdir())) == 2


def test_eps_may_be_a_fraction(work):
    cli.run([*ATTACK, "--eps", "8/255"])
    assert ("before", "fgsm@0.0313725") in values(work / "run")


def test_eps_0_is_clean(work):
    cli.run([*ATTACK, "--eps", "0"])
    found = values(work / "run")
    assert found["before", "fgsm@0"] == found["before", "pgd3@0"] == found["before", "clean"]


def test_eps_2_is_eps_1(work):
    cli.run([*ATTACK, "--eps", "1"])
    cli.run([*ATTACK[:-1], "two", "--eps", "2"])
    for_one, for_two = values(work / "run"), values(work / "two")
    assert for_two["before", "fgsm@2"] == for_one["before", "fgsm@1"]
    assert for_two["before", "loss:fgsm@2"] == for_one["before", "loss:fgsm@1"]
    assert np.array_equal(adversarial(work / "two", "fgsm@2"), adversarial(work / "run", "fgsm@1"))


def test_a_repair_compares_before_and_after(repaired):
    found = values(repaired)
    assert found["after", "robust@0.1"] > found["before", "robust@0.1"]
    assert set(results(repaired)["verdict"]) == {"sick", "well"}
    assert ("after", "transfer:fgsm@0.1") in found
    assert ("after", "passes") in found
    assert {"before.safetensors", "after.safetensors", "repair.json"} <= set(contents(repaired))


@pytest.mark.usefixtures("work")
def test_the_same_repair_again_changes_nothing(repaired, capsys):
    before = contents(repaired)
    assert cli.run([*REPAIR]) == 1
    assert contents(repaired) == before
    assert capsys.readouterr().out.endswith("report: run/report.html\n")


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    "settings",
    [
        ["--with", "remove:k=20,epochs=1", "--attack", "fgsm"],
        ["--with", "remove:k=0.1,rank=random,retrain=continue,epochs=1", "--attack", "fgsm"],
        ["--with", "correct:twins=round,select=misclassified,lam=1/2", "--attack", "fgsm"],
        ["--with", "correct:inner=fgsm-rs", "--attack", "fgsm", "--target", "2"],
    ],
    ids=lambda words: words[1],
)
def test_repairs_of_other_kinds(work, settings):
    words = ["repair", "base.safetensors", "--images", "10", "--rounds", "1", "--out", "run"]
    assert cli.run([*words, *settings]) in (0, 1)
    assert ("after", "robust@0.1") in values(work / "run")


@pytest.mark.parametrize(
    ("settings", "inside"),
    [
        (["--with", "correct:inner=fgsm"], "inner=FGSM(eps=0.2)"),
        (["--inner", "pgd:steps=2"], "inner=PGD(eps=0.2, steps=2"),
        (["--inner", "pgd:steps=2,eps=0.3"], "inner=PGD(eps=0.3, steps=2"),
        ([], "inner=PGD(eps=0.2, steps=5"),
        ([], "judge=PGD(eps=0.2, steps=10"),
        (["--with", "remove:attack=fgsm-rs"], "attack=FGSMRandomStart(eps=0.2"),
        (["--with", "remove"], "attack=FGSM(eps=0.2)"),
    ],
)
def test_attacks_inside_a_repair_have_the_radius_of_the_repair(settings, inside):
    from bezoar.cli import subject

    asked = dict(zip(settings[::2], settings[1::2], strict=True))
    method = subject.method(asked.get("--with", "correct"), asked.get("--inner"), 0.2, 3, "0.9")
    assert inside in repr(method)


class TestCheck:
    def test_everything_is_found_again(self, repaired, capsys):
        before = contents(repaired)
        assert cli.run(["check", "run"]) == 0
        said = capsys.readouterr().out
        assert "before.safetensors: fgsm@0.1, before: white-box: robust accuracy " in said
        assert "after.safetensors: pgd3@0.1, after: white-box: robust accuracy " in said
        assert said.endswith("found again\n")
        assert contents(repaired) == before

    @pytest.mark.parametrize("model", ["base.safetensors", "run/before.safetensors"])
    def test_with_the_model_that_was_attacked(self, repaired, model, capsys):
        assert cli.run(["check", "run", "--model", model]) == 0
        assert f"{model}: fgsm@0.1, before: white-box: " in capsys.readouterr().out

    def test_another_model_is_called_transfer_and_proves_nothing(self, repaired, capsys):
        cli.run(["train", "lenet-fig4", "--epochs", "1", "--seed", "9", "--out", "o.safetensors"])
        capsys.readouterr()
        assert cli.run(["check", "run", "--model", "o.safetensors"]) == 1
        *lines, last = capsys.readouterr().out.splitlines()
        assert [line for line in lines if ": transfer: robust accuracy " not in line] == []
        assert last.startswith("not compared, for they were scored on other weights: fgsm@0.1, ")

    def test_one_changed_value_is_found(self, repaired, capsys):
        path = repaired / "measurements" / "after" / "pgd3@0.1" / "000000.safetensors"
        arrays = read_arrays(path)
        arrays["x_adv"][4] = 0.5
        write_arrays(path, arrays)
        assert cli.run(["check", "run"]) == 1
        said = capsys.readouterr().out
        assert "pgd3@0.1, after: white-box" in said
        assert "1 distances differ" in said
        assert "1 images lie outside the ball of radius 0.1" in said
        assert said.endswith("the record does not hold\n")

    def test_weights_that_no_model_here_has_are_said(self, repaired, capsys):
        stamp = repaired / "measurements" / "after" / "fgsm@0.1" / "stamp.json"
        record = json.loads(stamp.read_text())
        stamp.write_text(json.dumps({**record, "scored_on": "0" * 16}))
        assert cli.run(["check", "run"]) == 1
        assert capsys.readouterr().out.endswith("other weights: fgsm@0.1, after\n")


def test_the_report_can_be_written_again(repaired, capsys):
    before = contents(repaired)
    (repaired / "report.html").unlink()
    assert cli.run(["report", "run", "--format", "html", "--format", "md"]) == 0
    assert capsys.readouterr().out == "run/report.html\nrun/tables/results.md\n"
    after = contents(repaired)
    assert after.pop("tables/results.md").startswith(b"| case |")
    assert after == before


class TestNetworkOfOnesOwn:
    WORDS = ("--model", "mynet:make", "--weights")

    @pytest.fixture
    def weights(self, work, mynet):
        state = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()
        torch.save(state, work / "w.pt")
        save_file(state, work / "w.safetensors")

    @pytest.mark.usefixtures("weights")
    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    def test_is_attacked_and_checked(self, work, name):
        assert cli.run(["attack", *self.WORDS, name, *FEW, "--out", "run"]) == 1
        assert cli.run(["check", "run", *self.WORDS, name]) == 0

    @pytest.mark.usefixtures("weights")
    def test_is_repaired_and_taken_up(self, work):
        words = ["repair", *self.WORDS, "w.pt", *REPAIR[2:]]
        assert cli.run(words) == 1
        before = contents(work / "run")
        assert cli.run(words) == 1
        assert contents(work / "run") == before
        assert cli.run(["check", "run", *self.WORDS, "run/after.safetensors"]) == 0


@pytest.mark.usefixtures("mynet")
def test_an_image_without_an_answer_is_named_and_the_others_finish(work, npz, capsys):
    images = np.random.default_rng(0).random((60, 8, 8)).astype(np.float32) * 0.9
    images[:, 0, 0] = 0
    images[::6, 0, 0] = 1
    state = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()
    save_file(state, work / "w.safetensors")
    own = ["--model", "mynet:make_silent", "--weights", "w.safetensors"]
    few = ["--attack", "fgsm", "--attack", "pgd:steps=3", "--attack", "deepfool"]
    assert cli.run(["attack", *own, "--data", npz("mine", images=images), *few, "--out", "r"]) == 1
    assert "warning: before: not-finite: pgd3@0.1: output that is not" in capsys.readouterr().out
    (silent, *_) = [w["images"] for w in results(work / "r")["warnings"] if "images" in w]
    assert {index % 6 for index in silent} == {0}
    assert cli.run(["check", "r", *own]) == 0
    assert "no answer" not in (work / "r" / "report.html").read_text()  # it was not fooled


def test_images_of_a_folder_get_the_size_of_the_model(work):
    for name in ("cat", "dog"):
        (work / "pets" / name).mkdir(parents=True)
        for k in range(6):
            pixels = np.full((9 + k, 12), 20 * k + (100 if name == "cat" else 0), np.uint8)
            Image.fromarray(pixels).save(work / "pets" / name / f"{k}.png")
    words = ["--data", "folder:pets"]
    trained = ["train", "lenet-fig4", "--epochs", "1", "--out", "pets.safetensors"]
    assert cli.run([*trained, *words, "--image-size", "10x12"]) == 0
    assert cli.run(["attack", "pets.safetensors", *words, *FEW, "--out", "run"]) in (0, 1)
    assert adversarial(work / "run", "fgsm@0.1").shape == (2, 1, 10, 12)


class TestFullDisk:
    @pytest.mark.usefixtures("work")
    @pytest.mark.parametrize(
        ("words", "code", "named"),
        [
            (("train", "lenet-fig4", "--epochs", "1", "--out", "n.safetensors"), 0, "n.training"),
            (ATTACK, 1, "run/"),
            (REPAIR, 1, "run/"),
        ],
        ids=["train", "attack", "repair"],
    )
    def test_is_said_in_one_line_and_the_same_command_works_afterwards(
        self, work, full_disk, words, code, named, capsys
    ):
        with full_disk(4096):
            assert cli.run([*words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith(f"bezoar: {named}")
        assert list(work.rglob("*.tmp")) == []
        assert cli.run([*words]) == code

    def test_leaves_an_older_report_as_it_was(self, repaired, full_disk, capsys):
        before = contents(repaired)
        with full_disk(4096):
            assert cli.run(["report", "run"]) == 2
        assert capsys.readouterr().err.startswith("bezoar: run/report.html: ")
        assert contents(repaired) == before
