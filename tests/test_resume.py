"""What is interrupted and taken up ends, to the bit, as what was not."""

import runpy
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from torch import nn

from bezoar.attacks import PGD, FGSMRandomStart
from bezoar.classifier import weights_hash
from bezoar.data import load
from bezoar.defence import Evidence
from bezoar.fit import fit
from bezoar.models import create
from bezoar.models.initial import initialise
from bezoar.repairs import Accumulate, AtRandom, ByRound, Correct, Online, Remove, Stop
from bezoar.runs.folder import FileSnapshot
from bezoar.seeds import generator
from bezoar.training import Training


class Album:
    """Keeps every state in a file of its own, and hands one of them out."""

    def __init__(self, folder, start=None):
        self.folder, self.start, self.pages = folder, start, []

    def load(self):
        return FileSnapshot(self.start).load() if self.start else None

    def save(self, state):
        self.pages.append(self.folder / f"{len(self.pages):03d}.safetensors")
        FileSnapshot(self.pages[-1]).save(state)


@pytest.fixture(scope="module")
def evidence():
    digits = load("digits")
    return Evidence(digits.train.first(72), digits.validation.first(30))


@pytest.fixture(scope="module")
def dropout_network(evidence):
    """The network of the paper's Fig. 3: two layers of dropout."""
    return create("lenet-fig3", shape=evidence.train.shape, classes=10, seed=0)


@pytest.fixture(scope="module")
def norm_network():
    """A user's network with batch norm, whose statistics are part of the state."""
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(144, 10))
    initialise(model, generator(0, "tests", "norm"))
    nn.init.ones_(model[1].weight)
    return model


@pytest.fixture
def every_step(monkeypatch):
    """Keep the state after every step, however quick the steps are."""
    monkeypatch.setitem(fit.__kwdefaults__, "snapshot_seconds", 0.0)


def untimed(log):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in log]


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_training_can_be_taken_up_after_any_step(tmp_path, evidence, dropout_network, schedule):
    training = Training(epochs=2, batch=32, schedule=schedule)
    album, whole = Album(tmp_path), deepcopy(dropout_network)
    log, meter = training(whole, evidence.train, evidence.validation, seed=3, snapshot=album)
    assert len(album.pages) == 2 * (3 + 1)
    for page in album.pages:
        rest = deepcopy(dropout_network)
        taken_up = Album(tmp_path / "rest", page)
        again, cost = training(rest, evidence.train, evidence.validation, seed=3, snapshot=taken_up)
        assert weights_hash(rest) == weights_hash(whole)
        assert untimed(again) == untimed(log)
        assert untimed([cost.as_dict()]) == untimed([meter.as_dict()])


STOP = Stop(rounds=3, target=2, judge=PGD(eps=0.1, steps=2), images=20)
REPAIRS = [
    Correct(twins=Online(), inner=FGSMRandomStart(eps=0.1), batch=32, stop=STOP),
    Correct(twins=Online(), inner=PGD(eps=0.1, steps=2), lam=1, schedule="cosine", stop=STOP),
    Correct(twins=ByRound(), inner=PGD(eps=0.1, steps=2), batch=32, stop=STOP),
    Correct(twins=Accumulate(), inner=FGSMRandomStart(eps=0.1), batch=32, stop=STOP),
    Remove(k=5, retrain="scratch", epochs=2, batch=32, schedule="cosine", stop=STOP),
    Remove(k=5, retrain="continue", epochs=2, batch=32, index_space="paper", stop=STOP),
    Remove(k=5, rank=AtRandom(), epochs=1, batch=32, stop=STOP),
]


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("repair", REPAIRS, ids=repr)
def test_a_repair_can_be_taken_up_after_any_step(tmp_path, evidence, norm_network, repair):
    album = Album(tmp_path)
    whole = repair(norm_network, evidence, seed=3, snapshot=album)
    assert len(album.pages) >= 3 * 2
    for page in album.pages[::3]:
        taken_up = Album(tmp_path / "rest", page)
        rest = repair(norm_network, evidence, seed=3, snapshot=taken_up)
        assert weights_hash(rest.classifier) == weights_hash(whole.classifier)
        assert untimed(rest.log) == untimed(whole.log)
        assert untimed([rest.cost.as_dict()]) == untimed([whole.cost.as_dict()])


@pytest.mark.usefixtures("every_step")
def test_a_snapshot_makes_no_difference(tmp_path, evidence, norm_network):
    with_one = REPAIRS[3](norm_network, evidence, seed=3, snapshot=Album(tmp_path))
    without = REPAIRS[3](norm_network, evidence, seed=3)
    assert weights_hash(with_one.classifier) == weights_hash(without.classifier)


SCRIPT = """
import sys, time
from pathlib import Path

import numpy as np
import torch

from bezoar import checkpoints
from bezoar.attacks import FGSM
from bezoar.classifier import weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.fit import fit
from bezoar.models import create
from bezoar.defence import Evidence
from bezoar.repairs import Correct, Stop
from bezoar.runs import Run
from bezoar.seeds import generator
from bezoar.training import Training

torch.set_num_threads(1)
fit.__kwdefaults__["snapshot_seconds"] = 0.0
pause = float(sys.argv[2])
run = Run(Path(sys.argv[1]), {"experiment": "killed"}, {})
classes = tuple("0123456789")

def images(count, name):
    x = torch.rand(count, 1, 8, 8, generator=generator(0, name))
    return ImageSet(x, torch.arange(count) % 10, np.arange(count), classes, name)

evidence = Evidence(images(96, "train"), images(30, "validation"))

def tell(what):
    def on_step(progress):
        print(what, progress.epoch, progress.done, flush=True)
        time.sleep(pause)
    return on_step

model = create("lenet-fig3", shape=(1, 8, 8), classes=10, seed=0)
before = run.path / "before.safetensors"
if before.exists():
    checkpoints.load_weights(before, model)
else:
    Training(epochs=2, batch=32)(model, evidence.train, evidence.validation, seed=0,
        snapshot=run.snapshot("base"), on_step=tell("training"))
    checkpoints.save(before, model, classes=classes)
    run.snapshot("base").clear()
stop = Stop(rounds=2, target=2, judge=FGSM(), images=10)
repaired = Correct(inner=FGSM(), batch=32, stop=stop)(model, evidence, seed=0,
    snapshot=run.snapshot("repair"), on_step=tell("repair"))
print(weights_hash(model), weights_hash(repaired.classifier))
"""


def start(script: Path, folder: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_at(process: subprocess.Popen[str], line: str) -> int:
    """Wait for a line of output, then kill -9; it is in the pause after it, or in the next step."""
    assert process.stdout is not None
    with process.stdout as lines:
        next(found for found in lines if found.strip() == line)
        process.kill()
    return process.wait()


@pytest.mark.usefixtures("every_step")  # so that what the script sets for itself is undone
def test_kill_9_in_training_and_in_repair_then_the_same_command_again(
    tmp_path, monkeypatch, capsys
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "whole"), "0"])
    runpy.run_path(str(script))
    expected = capsys.readouterr().out
    interrupted = tmp_path / "interrupted"
    assert killed_at(start(script, interrupted, 0.1), "training 2 32") == -9
    assert not (interrupted / "before.safetensors").exists()
    assert killed_at(start(script, interrupted, 0.1), "repair 1 64") == -9
    assert (interrupted / "before.safetensors").exists()
    last = start(script, interrupted, 0)
    rest, _ = last.communicate(timeout=60)
    assert rest.splitlines()[-1] == expected.splitlines()[-1]
    # It went on where it was: nothing was trained again from the start.
    assert len(expected.splitlines()) == 6 + 6 + 1
    assert rest.splitlines()[0] in ("repair 1 64", "repair 1 96", "repair 2 32")
