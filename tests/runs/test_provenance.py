"""Where results come from, in words that anybody can act on."""

import platform
import subprocess

import torch

import bezoar
from bezoar.runs import provenance
from bezoar.runs.provenance import machine, revision


def test_names_command_version_revision_and_machine():
    said = provenance("bezoar demo")
    assert list(said) == ["command", "version", "revision", "machine"]
    assert said["command"] == "bezoar demo"
    assert said["version"] == bezoar.__version__


def test_the_machine_is_described_without_its_name():
    assert f"torch {torch.__version__}" in machine()
    assert f"Python {platform.python_version()}" in machine()
    assert platform.node() not in machine().split(", ")


def test_a_revision_is_unknown_where_there_is_no_git(monkeypatch):
    def missing(*words, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert revision() == "unknown"


def test_a_revision_is_marked_where_files_differ(monkeypatch):
    def answers(words, **options):
        text = " M src/bezoar/fit.py\n" if "status" in words else "0123456789ab\n"
        return subprocess.CompletedProcess(words, 0, stdout=text)

    monkeypatch.setattr(subprocess, "run", answers)
    assert revision() == "0123456789ab+"
