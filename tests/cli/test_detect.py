"""``bezoar detect``: a detector against who ignores it, who evades it, and a trigger."""

import json
import shutil

import pytest

from bezoar import cli, planted

FIT = ("guard", "fit", "base.safetensors", "--with", "squeezing:fpr=0.2", "--threads", "1")
DETECT = ("detect", "squeezed.safetensors", "--images", "30", "--threads", "1")
PLANT = ("backdoor", "plant", "preact-resnet:width=8", "--epochs", "2", "--threads", "1")
WATCH = ("detect", "wary.safetensors", "--images", "60", "--threads", "1")


@pytest.fixture(scope="session")
def planted_files(tmp_path_factory):
    """A planted model, what is known of it, and a guard before it."""
    folder = tmp_path_factory.mktemp("planted")
    sick, wary = folder / "sick.safetensors", folder / "wary.safetensors"
    with_badnets = ["--with", "badnets:size=2", "--target", "3", "--rate", "0.2"]
    assert cli.run([*PLANT, *with_badnets, "--out", str(sick)]) == 0
    strip = ["--with", "strip:overlays=6", "--threads", "1"]
    assert cli.run(["guard", "fit", str(sick), *strip, "--out", str(wary)]) == 0
    return [sick, planted.beside(sick), wary]


@pytest.fixture
def wary(work, planted_files):
    for path in planted_files:
        shutil.copy(path, work)


@pytest.fixture
def squeezed(work, capsys):
    assert cli.run([*FIT, "--out", "squeezed.safetensors"]) == 0
    assert "before base.safetensors on digits, validation: clean 0." in capsys.readouterr().out


@pytest.mark.usefixtures("squeezed")
def test_prints_both_attackers_and_writes_what_it_found(work, capsys):
    words = ["--attack", "pgd:eps=0.1,steps=5", "--json", "found.json", "--out", "roc.svg"]
    assert cli.run([*DETECT, *words]) == 0
    said = capsys.readouterr().out
    for line in (
        "squeezed.safetensors on digits/test, threshold ",
        "clean images rejected: ",
        "who ignores the detector, pgd:eps=0.1,steps=5",
        "who knows the detector, pgd:eps=0.1,steps=5",
        "  area under the ROC: ",
        "figure: roc.svg",
    ):
        assert line in said
    table = json.loads((work / "found.json").read_text())
    assert table["command"].startswith("bezoar")
    rows = {row["metric"]: row for row in table["rows"]}
    assert rows["standing:pgd5@0.1"]["value"] <= rows["greybox:standing:pgd5@0.1"]["value"]
    assert rows["clean"]["n"] == rows["false-alarms"]["n"] == 30
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in table["rows"])
    assert "who knows it: " in (work / "roc.svg").read_text()


@pytest.mark.usefixtures("squeezed")
def test_the_same_command_says_the_same_and_draws_png_too(work, capsys):
    words = [*DETECT, "--attack", "fgsm:eps=0.05", "--ranks", "1", "--out", "roc.png"]
    assert cli.run(words) == 0
    first = capsys.readouterr().out
    assert (work / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert cli.run(words) == 0
    assert capsys.readouterr().out == first


@pytest.mark.usefixtures("wary")
def test_with_a_backdoor_it_is_shown_triggered_images_and_no_attack(work, capsys):
    words = ["--backdoor", "sick.safetensors", "--json", "found.json", "--out", "roc.svg"]
    assert cli.run([*WATCH, *words]) == 0
    said = capsys.readouterr().out
    for line in (
        "wary.safetensors on digits/test, threshold ",
        "clean images rejected: ",
        "images with the trigger badnets\n",
        "  where the attacker wants them: ",
        "  where he wants them and not rejected: ",
        "  rejected, all triggered: ",
        "    at 5% false alarms: ",
        "    at 1% false alarms: ",
        "    area under the ROC: ",
        "figure: roc.svg",
    ):
        assert line in said
    assert "the detector, pgd" not in said
    rows = {row["metric"]: row for row in json.loads((work / "found.json").read_text())["rows"]}
    assert rows["clean"]["n"] == 60
    assert {row["case"] for row in rows.values()} == {"strip"}
    assert 50 <= rows["auc:triggered"]["n"] == rows["tpr@0.01:triggered"]["n"] < 60
    assert rows["tpr@0.01:triggered"]["value"] <= rows["tpr@0.05:triggered"]["value"]
    assert "all triggered: " in (work / "roc.svg").read_text()


@pytest.mark.usefixtures("wary")
def test_an_attack_and_a_backdoor_go_into_one_table(work):
    words = ["--backdoor", "sick.safetensors", "--attack", "fgsm:eps=0.05", "--ranks", "1"]
    assert cli.run([*WATCH, *words, "--json", "found.json"]) == 0
    names = [row["metric"] for row in json.loads((work / "found.json").read_text())["rows"]]
    assert {"standing:fgsm@0.05", "auc:triggered"} < set(names)
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("wary")
def test_a_model_of_which_no_backdoor_is_known_is_refused(refused):
    said = refused(*WATCH, "--backdoor", "base.safetensors")
    assert "base.backdoor.safetensors: no such file; `bezoar backdoor plant` writes it" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["detect", "base.safetensors"],
            "LeNet32x64 without score and threshold: expected a detector",
        ),
        (["detect", "base.safetensors", "--out", "roc.pdf"], "--out=roc.pdf: expected a file"),
        (["detect", "base.safetensors", "--json", "no/a.json"], "--json=no/a.json: expected a"),
        (["detect", "base.safetensors", "--attack", "pgdd"], "did you mean 'pgd'?"),
    ],
)
def test_what_is_no_detector_is_refused_in_one_line(refused, words, said):
    assert said in refused(*words)


@pytest.mark.usefixtures("squeezed")
def test_an_attack_that_cannot_lead_to_a_class_is_refused(refused):
    said = refused(*DETECT, "--attack", "deepfool")
    assert "expected one that leads away from a class" in said
