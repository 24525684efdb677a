"""``bezoar latency``, and what an attack on a guarded model keeps of it."""

import json

import pytest

from bezoar import checkpoints, cli
from bezoar.models import Autoencoder, Purified
from bezoar.report.tables import validate

LATENCY = ("latency", "guarded.safetensors", "--runs", "3", "--threads", "1")
ATTACK = ("attack", "guarded.safetensors", "--images", "5", "--attack", "fgsm", "--out", "run")


@pytest.fixture
def guarded(work):
    base = checkpoints.load(work / "base.safetensors")
    model = Purified(purifier=Autoencoder(shape=base.shape), network=base.model)
    checkpoints.save(work / "guarded.safetensors", model, classes=base.classes)
    return work


def test_parts_batches_and_ratios_are_printed(guarded, capsys):
    assert cli.run([*LATENCY, "--batch", "2", "--batch", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "guarded.safetensors on digits/test: CPU, 1 thread"
    assert lines[1].split()[:3] == ["part", "batch", "median"]
    cells = [line.split() for line in lines[2:8]]
    assert [(row[0], row[1], row[-1]) for row in cells] == [
        (part, size, "3") for size in ("2", "64") for part in ("whole", "guard", "classifier")
    ]
    assert lines[8].startswith("In batches of 2 the whole takes ")
    assert lines[9].startswith("In batches of 64 the whole takes ")
    assert len(lines) == 10


def test_a_model_without_a_guard_is_a_whole(work, capsys):
    assert cli.run(["latency", "base.safetensors", "--runs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["whole", "1"], ["whole", "64"]]


def test_the_results_file_is_one_of_the_project_s(guarded, capsys):
    assert cli.run([*LATENCY, "--json", "found/times.json"]) == 0
    assert capsys.readouterr().out.endswith("results: found/times.json\n")
    results = json.loads((guarded / "found" / "times.json").read_text())
    named = [(row["case"], row["metric"]) for row in validate(results)]
    parts = [f"latency{k}{part}" for k in (1, 64) for part in ("", ":p99", ":guard", ":classifier")]
    metrics = {"ratio:classifier", "memory:1", "memory:64", *parts}
    assert set(named) == {("guarded", name) for name in metrics}
    assert [len(one["seconds"]) for one in results["latency"]] == [3] * 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("latency", "nosuch.safetensors"), "nosuch.safetensors"),
        (("latency",), "Missing argument 'MODEL'"),
        (("latency", "base.safetensors", "--runs", "0"), "runs=0: expected"),
        (("latency", "base.safetensors", "--batch", "0"), "batch=0: expected"),
        (("latency", "base.safetensors", "--seconds", "-1"), "seconds=-1.0: expected"),
        (("latency", "base.safetensors", "--data", "mnistt"), "did you mean 'mnist'?"),
        (
            ("latency", "base.safetensors", "--json", "times.txt"),
            "--json=times.txt: expected a file NAME.json",
        ),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(refused, words, said):
    assert said in refused(*words)


class TestRun:
    def test_an_attack_on_a_guarded_model_is_timed_once_and_apart(self, guarded, capsys):
        assert cli.run([*ATTACK]) == 1
        run = guarded / "run"
        kept, results = ((run / name).read_bytes() for name in ("latency.json", "results.json"))
        parts = [(one["part"], one["batch"]) for one in json.loads(kept)["latency"]]
        assert parts == [(p, size) for size in (1, 64) for p in ("whole", "guard", "classifier")]
        assert not [row for row in json.loads(results)["rows"] if "latency" in row["metric"]]
        assert "What the guard costs" in (run / "report.html").read_text()
        assert cli.run([*ATTACK]) == 1
        assert (run / "latency.json").read_bytes() == kept
        (run / "latency.json").unlink()
        assert cli.run([*ATTACK]) == 1
        assert (run / "results.json").read_bytes() == results
        assert (run / "latency.json").exists()
        capsys.readouterr()
        assert cli.run(["check", "run", "--model", "guarded.safetensors"]) == 0

    def test_one_without_a_guard_is_not_timed(self, work):
        assert cli.run(["attack", "base.safetensors", *ATTACK[2:]]) in (0, 1)
        assert not (work / "run" / "latency.json").exists()
        assert "What the guard costs" not in (work / "run" / "report.html").read_text()
