import resource
import subprocess
import sys

import pytest

from bezoar import cli

MAIN = "from bezoar.cli import main; main()"
VERBS = ["demo", "train", "attack", "repair", "latency", "check", "report", "reproduce", "list"]
HEAVY = "'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'pooch', 'PIL'"


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_of_help() -> float:
    before = _children_cpu()
    subprocess.run([sys.executable, "-c", MAIN, "--help"], check=True, capture_output=True)
    return _children_cpu() - before


def test_help_takes_less_than_half_a_second():
    assert min(_cpu_of_help() for _ in range(3)) < 0.5


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from bezoar import cli; assert cli.run(['attack', '--help']) == 0;"
        f"print(sorted({{{HEAVY}}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert cli.run([verb, "--help"]) == 0
    assert f"\n  Example: bezoar {verb}" in capsys.readouterr().out


def test_help_names_every_verb(capsys):
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    assert [verb for verb in VERBS if f"\n  {verb} " not in said] == []


def test_list_names_what_can_be_asked_for(capsys):
    assert cli.run(["list"]) == 0
    said = capsys.readouterr().out
    names = ["digits", "npz:PATH", "lenet-fig3", "fgsm-rs", "pgd-l2", "correct", "remove"]
    assert [name for name in [*names, "lenet-fgsm"] if f"\n  {name} " not in said] == []
