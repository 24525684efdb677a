"""A folder to work in with a small trained model, and what a refusal must look like."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from bezoar import cli


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model file: the 32/64 network after two epochs on digits."""
    path = tmp_path_factory.mktemp("trained") / "base.safetensors"
    assert cli.run(["train", "lenet-fig3", "--epochs", "2", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def surrogate_files(tmp_path_factory):
    """Two more model files: another network after one epoch, from two seeds."""
    folder = tmp_path_factory.mktemp("surrogates")
    paths = [folder / "one.safetensors", folder / "two.safetensors"]
    for seed, path in enumerate(paths):
        words = ["train", "lenet-fig4", "--epochs", "1", "--seed", str(seed), "--out", str(path)]
        assert cli.run(words) == 0
    return paths


@pytest.fixture
def work(tmp_path, monkeypatch, trained):
    """The current folder: empty but for ``base.safetensors``."""
    shutil.copy(trained, tmp_path / "base.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BEZOAR_DATA", raising=False)
    return tmp_path


MYNET = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Silent(nn.Linear):
    def forward(self, x):
        return (1 / (1 - x[:, :1])) * 0 + super().forward(x)

def make_silent():
    return nn.Sequential(nn.Flatten(), Silent(64, 10))

def make_twelve():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
"""


@pytest.fixture
def mynet(work, monkeypatch):
    """A module ``mynet`` of the user's own in the current folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (work / "mynet.py").write_text(MYNET)
    yield
    sys.modules.pop("mynet", None)


def everything(folder: Path) -> dict[str, bytes]:
    """Files and folders below a folder, with their content."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in found}


@pytest.fixture
def refused(work, capsys):
    """Run words that must be refused: exit code 2, one line, nothing made; return the line."""

    def call(*words: str) -> str:
        before = everything(work)
        capsys.readouterr()
        assert cli.run([*words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("bezoar: ")
        assert said.err.count("\n") == 1
        assert everything(work) == before
        return said.err

    return call


@pytest.fixture
def npz(work):
    """Write ``NAME.npz`` of 60 grey images of 8 x 8 and labels 0 to 9, with changes."""

    def write(name: str, **changes: np.ndarray) -> str:
        pixels = np.random.default_rng(0).random((60, 8, 8)).astype(np.float32)
        np.savez(
            work / f"{name}.npz", **{"images": pixels, "labels": np.arange(60) % 10, **changes}
        )
        return f"npz:{name}.npz"

    return write
