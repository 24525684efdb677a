"""``bezoar repair --backdoor``: what a repair does to a backdoor."""

import json

import pytest

from bezoar import cli, cures

TRAIN = ("--epochs", "4", "--threads", "1", "--lr", "3e-3")


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    path = tmp_path_factory.mktemp("sick") / "sick.safetensors"
    words = ["backdoor", "plant", "lenet-fig4", "--with", "badnets:size=2", "--rate", "0.1"]
    assert cli.run([*words, *TRAIN, "--out", str(path)]) == 0
    return str(path)


def repaired(sick, *words):
    some = ("--data", "digits", "--threads", "1", "--out", "run")
    return cli.run(["repair", sick, "--backdoor", sick, *some, *words])


def values():
    with open("run/results.json") as file:
        rows = json.load(file)["rows"]
    return {(row["case"], row["metric"]): row["value"] for row in rows}


def test_measures_the_backdoor_before_and_after(work, sick, capsys):
    method = "grad-prune:source=oracle,epochs=20,lr=0.05,keep=0,shift=0,weight=1,clip=10"
    assert repaired(sick, "--with", method, "--spc", "8") == 0
    said = capsys.readouterr().out
    assert "repaired model: run/after.safetensors" in said
    assert "report: run/report.html" in said
    page = (work / "run" / "report.html").read_text()
    assert "wanted: <strong>0</strong>" in page
    assert "the true trigger, which no defender has" in page
    found = values()
    assert set(found) == {
        *(("before", name) for name in ("clean", "asr", "ra")),
        *(("after", name) for name in ("clean", "asr", "ra", "der", "drop", "seconds", "passes")),
    }
    assert found["after", "asr"] < 0.3 < found["before", "asr"]
    assert found["after", "der"] > 0.7
    gained = found["before", "clean"] - found["after", "clean"]
    assert found["after", "drop"] == pytest.approx(gained)
    # Done once, it is only measured again.
    log = (work / "run" / "repair.json").read_bytes()
    assert repaired(sick, "--with", method, "--spc", "8") == 0
    assert (work / "run" / "repair.json").read_bytes() == log
    assert values() == found
    assert (work / "run" / "report.html").read_text() == page


def test_the_path_of_pruning_goes_on_where_it_was_interrupted(work, sick, monkeypatch):
    words = ("--with", "grad-prune:source=oracle,filters=3,alpha=1,epochs=0", "--spc", "8")
    assert repaired(sick, *words) == 0
    path = work / "run" / "path.json"
    whole = path.read_bytes()
    path.unlink()
    # Before, after and the first point of the path; the next one is not there.
    left = iter([cures.measure] * 3)
    monkeypatch.setattr(cures, "measure", lambda *args, **more: next(left)(*args, **more))
    with pytest.raises(StopIteration):
        repaired(sick, *words)
    assert (work / "run" / "snapshots" / "path.safetensors").exists()
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert repaired(sick, *words) == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--with", "ft", "--spc", "900"), "class '0' of digits/train has"),
        (("--with", "grad-prun"), "did you mean 'grad-prune'?"),
        (("--with", "grad-prune:source=orakel"), "did you mean 'oracle'?"),
        (("--with", "grad-prune:folds=0"), "folds=0: expected"),
    ],
)
def test_refusals(work, sick, capsys, words, reason):
    assert repaired(sick, *words) == 2
    assert reason in capsys.readouterr().err
    assert not (work / "run").exists()


def test_few_images_are_for_backdoors_and_a_backdoor_is_one_that_was_planted(refused):
    assert "--spc=3: expected with --backdoor only" in refused(
        "repair", "base.safetensors", "--spc", "3"
    )
    assert "base.backdoor.safetensors: no such file" in refused(
        "repair", "base.safetensors", "--backdoor", "base.safetensors"
    )
