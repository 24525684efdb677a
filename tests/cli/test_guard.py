"""``bezoar guard``: what it writes is a model for every other verb."""

import json

import pytest

from bezoar import checkpoints, cli
from bezoar.classifier import weights_hash

FIT = ("guard", "fit", "base.safetensors", "--with", "cae:epochs=2,code=12", "--threads", "1")


@pytest.fixture
def guarded(work):
    assert cli.run([*FIT, "--out", "guarded.safetensors"]) == 0
    return work / "guarded.safetensors"


def test_a_guarded_model_is_attacked_like_any_other(work, capsys, guarded):
    said = capsys.readouterr().out
    assert "cae:epochs=2,code=12 before base.safetensors on digits, validation: clean 0." in said
    assert said.endswith("model: guarded.safetensors\n")
    few = ("--images", "10", "--attack", "fgsm")
    words = ["attack", "guarded.safetensors", *few, "--surrogate", "base.safetensors"]
    assert cli.run([*words, "--out", "run"]) in (0, 1)
    assert "transfer:fgsm@0.1" in capsys.readouterr().out
    assert cli.run(["check", "run", "--model", "guarded.safetensors"]) == 0


def test_the_same_command_leaves_the_file_as_it_is(guarded, capsys):
    before = guarded.read_bytes()
    assert cli.run([*FIT, "--out", "guarded.safetensors"]) == 0
    assert guarded.read_bytes() == before
    assert cli.run([*FIT, "--seed", "1", "--out", "guarded.safetensors"]) == 2
    assert "holds another model" in capsys.readouterr().err
    assert guarded.read_bytes() == before


def test_the_attack_to_be_undone_may_be_named_apart(work):
    words = [*FIT, "--inner", "pgd:eps=0.2,steps=2", "--out", "guarded.safetensors"]
    assert cli.run(words) == 0
    record = checkpoints.header(work / "guarded.safetensors").training
    assert "inner=(PGD(eps=0.2, steps=2," in record["guard"]


def test_the_model_itself_is_in_it_unchanged(work, guarded):
    base = checkpoints.load(work / "base.safetensors").model
    assert weights_hash(checkpoints.load(guarded).model.network) == weights_hash(base)


def test_a_guard_is_moved_in_front_of_another_model(work, guarded):
    words = ["guard", "apply", "guarded.safetensors", "base.safetensors", "--out"]
    assert cli.run([*words, "moved.safetensors"]) == 0
    moved, first = (checkpoints.load(work / name).model for name in ("moved.safetensors", guarded))
    assert weights_hash(moved) == weights_hash(first)


def test_guards_are_compared_by_what_the_attacker_knows(work, guarded, capsys):
    words = ["guard", "compare", "base.safetensors", "guarded.safetensors", "--images", "12"]
    words += ["--attack", "fgsm:eps=0.2", "--out", "compared"]
    assert cli.run(words) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines()[1:]}
    assert list(lines) == ["clean", "fgsm@0.2", "greybox:fgsm@0.2", "bpda:fgsm@0.2", "results:"]
    assert lines["fgsm@0.2"].count("%") == 2 * lines["bpda:fgsm@0.2"].count("%")
    rows = json.loads((work / "compared" / "results.json").read_text())["rows"]
    assert {row["n"] for row in rows} == {12}
    assert cli.run(words) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--access", "greyb"], "did you mean 'greybox'?"),
        (["--access", "transfer"], "--access=transfer: expected --surrogate FILE"),
        (["base.safetensors"], "expected names that differ"),
        (["gone.safetensors"], "gone.safetensors"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(work, guarded, capsys, more, said):
    words = ["guard", "compare", "base.safetensors", "guarded.safetensors", "--out", "compared"]
    assert cli.run([*words, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (work / "compared").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*FIT[:4], "caee", "--out", "x.safetensors"], "did you mean 'cae'?"),
        ([*FIT[:4], "cae:lam=-1", "--out", "x.safetensors"], "lam=-1.0: expected a number at"),
        (
            [*FIT[:4], "cae:inner=pgd", "--inner", "fgsm", "--out", "x.safetensors"],
            "--inner='fgsm': expected once, but --with='cae:inner=pgd' has it too",
        ),
        ([*FIT, "--out", "x.pt"], "--out=x.pt: expected a file NAME.safetensors"),
        (["guard", "fit", "nosuch.safetensors", "--out", "x.safetensors"], "nosuch.safetensors"),
        ([*FIT, "--data", "mnistt", "--out", "x.safetensors"], "did you mean 'mnist'?"),
        (["guard", "fti"], "No such command 'fti'. Did you mean 'fit'?"),
        (
            ["guard", "apply", *["base.safetensors"] * 2, "--out", "x.safetensors"],
            "base.safetensors: lenet-fig3: expected a model that `bezoar guard fit` wrote",
        ),
    ],
)
def test_what_makes_no_guard_is_refused_in_one_line(work, capsys, words, said):
    assert cli.run(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in work.iterdir()) == ["base.safetensors"]
