"""``bezoar detect``: a detector against who ignores it and who evades it."""

import json

import pytest

from bezoar import cli

FIT = ("guard", "fit", "base.safetensors", "--with", "squeezing:fpr=0.2", "--threads", "1")
DETECT = ("detect", "squeezed.safetensors", "--images", "30", "--threads", "1")


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
