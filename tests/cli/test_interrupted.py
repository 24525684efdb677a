"""kill -9 and Ctrl-C in the middle, then the same command again."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bezoar import checkpoints, cli
from bezoar.classifier import weights_hash

# Tests that run in the background may ignore Ctrl-C, and what they start inherits that.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from bezoar.cli import main; main()"
)
TRAIN = ("train", "lenet-fig3", "--epochs", "8", "--patience", "8", "--threads", "1", "--out")
REPAIR = ("repair", "base.safetensors", "--images", "10", "--attack", "fgsm", "--inner", "fgsm")
REPAIR = (*REPAIR, "--rounds", "6", "--target", "2", "--threads", "1", "--out")


def stopped(words, snapshot, with_signal):
    """Start the command, send the signal once its state lies on disk; return (code, stderr)."""
    before = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 240  # a busy machine takes long to import torch
    while not snapshot.exists() or snapshot.stat().st_mtime_ns == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(with_signal)
    _, said = process.communicate(timeout=240)
    return process.returncode, said


@pytest.mark.parametrize(
    ("words", "out", "snapshot", "model"),
    [
        (TRAIN, "new.safetensors", "new.training.safetensors", "new.safetensors"),
        (REPAIR, "run", "run/snapshots/repair.safetensors", "run/after.safetensors"),
    ],
    ids=["train", "repair"],
)
def test_a_command_goes_on_where_it_stopped(work, words, out, snapshot, model):
    path = work / model
    assert stopped([*words, out], work / snapshot, signal.SIGKILL) == (-9, "")
    assert not path.exists()
    said = "bezoar: interrupted; the same command goes on where this one stopped\n"
    assert stopped([*words, out], work / snapshot, signal.SIGINT) == (130, said)
    assert not path.exists()
    assert cli.run([*words, out]) in (0, 1)
    assert not (work / snapshot).exists()
    whole = work / "whole" / model
    assert cli.run([*words, f"whole/{out}"]) in (0, 1)
    found, expected = checkpoints.load(path), checkpoints.load(whole)
    assert weights_hash(found.model) == weights_hash(expected.model)
