"""The verb ``certify``."""

import pytest

from bezoar import cli, experiments
from bezoar.files import read_json
from bezoar.runs.folder import read_arrays

CERTIFY = ("certify", "smoothed.safetensors", "--images", "12", "--samples", "300")


@pytest.fixture
def smoothed(work):
    """A smoothed model beside ``base.safetensors``."""
    guard = "smoothing:sigma=0.1,epochs=1"
    words = ["guard", "fit", "base.safetensors", "--with", guard, "--out", "smoothed.safetensors"]
    assert cli.run(words) == 0
    return work


def rows(run):
    return {row["metric"]: row for row in read_json(run / "results.json")["rows"]}


def test_certificates_are_kept_and_reported(smoothed, capsys):
    capsys.readouterr()
    assert cli.run([*CERTIFY, "--out", "run", "--radii", "0,0.1,0.2"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("curve: run/certified.svg\n")
    found = rows(smoothed / "run")
    assert list(found) == [
        "clean",
        "abstained",
        "certified-l2@0",
        "certified-l2@0.1",
        "certified-l2@0.2",
    ]
    certified = [found[f"certified-l2@{radius}"]["value"] for radius in ("0", "0.1", "0.2")]
    assert 1 >= certified[0] >= certified[1] >= certified[2]
    assert certified[0] > 0
    assert found["clean"]["n"] == 12
    counts = read_arrays(smoothed / "run" / "certificates.safetensors")["counts"]
    assert counts.shape == (12, 10)
    assert (counts.sum(axis=1) == 300).all()
    assert "certified, L2" in (smoothed / "run" / "certified.svg").read_text()
    assert "certified-l2@0.1" in (smoothed / "run" / "tables" / "results.csv").read_text()


def test_the_folder_is_named_after_what_is_asked_for_and_taken_up(smoothed, monkeypatch):
    assert cli.run([*CERTIFY]) == 0
    (run,) = (smoothed / "runs").iterdir()
    before = rows(run)
    monkeypatch.delattr(experiments, "certify")  # nothing is counted again
    (run / "results.json").unlink()
    assert cli.run([*CERTIFY]) == 0
    assert rows(run) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("certify", "base.safetensors"), "LeNet32x64: expected a smoothed one, such as `bezoar g"),
        (("certify", "nosuch.safetensors"), "nosuch.safetensors: expected a file"),
        ((*CERTIFY, "--alpha", "0"), "alpha=0.0: expected a number in (0, 1)"),
        ((*CERTIFY, "--alpha", "x"), "--alpha='x': expected a number such as"),
        ((*CERTIFY, "--radii", "0,-1"), "--radii=-1.0: expected a number at least 0"),
        ((*CERTIFY, "--radii", ","), "--radii=',': expected at least one"),
        ((*CERTIFY, "--data", "nosuch"), "nosuch"),
        (
            ("guard", "apply", *CERTIFY[1:2], "base.safetensors", "--out", "x.safetensors"),
            "expected a model that `bezoar guard fit` wrote",
        ),
    ],
)
def test_what_cannot_be_certified_is_refused_in_one_line(smoothed, refused, words, said):
    assert said in refused(*words)
