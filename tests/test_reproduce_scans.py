"""A recipe of scans on the embedded digits, from the file to the table."""

import json
import math

import pytest

from bezoar import cli, reproduce
from bezoar.report import sheet
from bezoar.reproduce.plans.scans import conformal

NOTES = {"command": "bezoar reproduce toy", "version": "0", "revision": "a", "machine": "2 cores"}

RECIPE = """
format = 1
name = "toy"
about = ["a toy"]

[sizes.one]
calibrate = 1
fresh = 2
alarms = 0.5
spc = 2
train = 300
test = 60
caps = { epochs = 8 }

[[subject]]
data = "digits"
network = "lenet-fig4"
training = { epochs = 9, lr = 0.003 }

[[plant]]
name = "badnets"
trigger = { name = "badnets", size = 2 }

[[plant]]
name = "blended"
trigger = { name = "blended" }

[[look]]
name = "clp"
scan = { name = "clp-scan" }

[[look]]
name = "mm"
scan = { name = "mm-bd", starts = 2, steps = 3 }

[[look]]
name = "spectral"
scan = { name = "spectral-signatures" }

[[look]]
name = "strip"
scan = { name = "strip", overlays = 5 }
"""


def written(folder):
    path = folder / "toy.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    work = reproduce.opened(written(folder), "one", folder / "run", lambda command: NOTES)
    return folder, work()


def test_every_model_and_every_scan_has_its_rows(done):
    rows = {(row["case"], row["seed"], row["metric"]) for row in done[1]["rows"]}
    turns = {1: "blended", 2: "badnets"}  # those of 0 are for thresholds only
    expected = {(f"digits {turns[k]}", k, m) for k in turns for m in ("clean", "asr")}
    expected |= {("digits clean", k, "clean") for k in turns}
    sifted = ("caught", "false-positives", "auc:rows")
    expected |= {(f"digits spectral {turns[k]}", k, m) for k in turns for m in sifted}
    expected |= {("digits spectral clean", k, "false-positives") for k in turns}
    watched = ("fpr:clean", "tpr:triggered", "auc:triggered")
    expected |= {(f"digits strip {turns[k]}", k, m) for k in turns for m in watched}
    expected |= {("digits strip clean", k, "fpr:clean") for k in turns}
    measured = ["threshold", "false-alarms", "hits", "auc"]
    measured += [f"{m}:{name}" for m in ("hits", "auc") for name in turns.values()]
    scores = ("clp", "mm", "mm p-value", "spectral")
    expected |= {(f"digits {name}", 0, m) for name in scores for m in measured}
    own = ("false-alarms:own", "hits:own")
    expected |= {(f"digits {name}", 0, m) for name in ("clp", "mm", "spectral") for m in own}
    # clp-scan tells no classes apart.
    expected |= {(f"digits {name}", 0, "named") for name in ("mm", "spectral")}
    assert rows == expected
    page = sheet.page(done[1], "toy")
    assert "calibrate 1; fresh 2; spc 2; train 300; test 60" in page
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    looks = ["Poison among training images", "Triggered images, one at a time", "Models"]
    assert titles[:3] == [f"## {look}" for look in looks]


def said(done, look):
    """What a scan said, by model."""
    kept = (done[0] / "run" / "digits").glob(f"*-{look}.json")
    return {path.stem.removesuffix(f"-{look}"): json.loads(path.read_text()) for path in kept}


def test_a_threshold_is_that_of_models_that_are_not_measured_with_it(done):
    scores = {name: found["score"] for name, found in said(done, "clp").items()}
    rows = {row["metric"]: row for row in done[1]["rows"] if row["case"] == "digits clp"}
    assert rows["threshold"]["value"] == scores["clean-0"]
    above = [scores[name] > scores["clean-0"] for name in ("clean-1", "clean-2")]
    assert (rows["false-alarms"]["value"], rows["false-alarms"]["n"]) == (sum(above) / 2, 2)
    assert rows["hits:badnets"]["value"] == (scores["badnets-2"] > scores["clean-0"])


def test_a_p_value_is_a_score_too_and_who_is_accused_is_counted(done):
    found = said(done, "mm")
    rows = {(row["case"], row["metric"]): row["value"] for row in done[1]["rows"]}
    accused = [found[name]["accused"] for name in ("clean-1", "clean-2")]
    assert rows["digits mm", "false-alarms:own"] == sum(accused) / 2
    right = [found["blended-1"]["first"] == 7, found["badnets-2"]["first"] == 4]
    assert rows["digits mm", "named"] == sum(right) / 2
    threshold = rows["digits mm p-value", "threshold"]
    assert 10**-threshold == pytest.approx(found["clean-0"]["p_value"])


def test_a_scan_that_is_added_later_looks_at_the_models_that_are_there(done, tmp_path, monkeypatch):
    from shutil import copytree

    from bezoar import fit

    copytree(done[0] / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "digits").glob("*-mm.json"):
        path.unlink()
    monkeypatch.setattr(fit, "fit", None)
    path = done[0] / "toy.toml"
    work = reproduce.opened(path, "one", tmp_path / "run", lambda command: NOTES)
    assert work.table()["missing"][0] == "digits clean-0, mm"
    assert json.dumps(work()) == json.dumps(done[1])


def test_a_run_that_is_done_gives_the_same_table_and_trains_nothing(done, monkeypatch):
    from bezoar import fit

    monkeypatch.setattr(fit, "fit", None)
    again = reproduce.opened(done[0] / "toy.toml", "one", done[0] / "run", lambda command: NOTES)
    assert json.dumps(again()) == json.dumps(done[1])


def test_a_part_is_worked_on_alone_and_what_is_missing_is_named(tmp_path):
    asked = {"only": ["digits"], "seeds": [1]}
    work = reproduce.opened(
        written(tmp_path), "one", tmp_path / "run", lambda command: NOTES, **asked
    )
    assert work() is None
    others = ["digits clean-0", "digits badnets-0", "digits clean-2", "digits badnets-2"]
    assert work.table()["missing"] == others


def test_a_conformal_threshold_keeps_its_promise_for_any_distribution():
    # Of ten exchangeable scores the last is above the largest of the others one time in ten.
    assert conformal(range(1, 10), 0.1) == 9
    assert conformal(range(1, 20), 0.1) == 18
    assert conformal(range(1, 9), 0.1) == math.inf


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "format=2: expected 1"),
        ('name = "clp-scan"', 'name = "clp-scam"', "did you mean 'clp-scan'"),
        ('name = "spectral-sig', 'name = "spectral-zig', "expected one of clp-scan"),
        ('trigger = { name = "blended" }', 'trigger = { name = "blend" }', "'blended'"),
        ("alarms = 0.5", "alarms = 0.1", "calibrate=1 for alarms=0.1: expected more healthy"),
        ("calibrate = 1", "calibrate = 0", "calibrate=0: expected"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_found_before_anything_is_run(tmp_path, old, new, said):
    path = written(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        reproduce.opened(path, "one", tmp_path / "run", lambda command: NOTES)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_other_data_and_another_model(capsys):
    assert cli.run(["reproduce", "scans", "--size", "smoke", "--only", "mnist"]) == 2
    assert "data 'mnist': expected one of cifar10" in capsys.readouterr().err
    assert cli.run(["reproduce", "scans", "--size", "smoke", "--seed", "9"]) == 2
    assert "seed=9: expected one of 0, 1, 2" in capsys.readouterr().err
