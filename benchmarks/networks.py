"""The three networks that attacks are compared on: trained once, kept in runs/benchmarks/."""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bezoar import checkpoints, data, making
from bezoar.attacks import PGD
from bezoar.data.imageset import DataSet
from bezoar.defence import Evidence
from bezoar.fit import Progress
from bezoar.repairs import Correct, Stop
from bezoar.repairs.twins import Online
from bezoar.runs import FileSnapshot
from bezoar.training import Training

FOLDER = Path("runs/benchmarks")
RESULTS, PAGES = Path("results"), Path("docs/results")
SEED = 0


class Network(NamedTuple):
    """How a network is made: data, kind, training, and the repair that follows it, if any."""

    data: str
    kind: str
    training: Training
    repair: Correct | None = None


NETWORKS = {
    "lenet": Network("mnist", "lenet-fig4", Training(epochs=5)),
    "lenet-robust": Network(
        "mnist",
        "lenet-fig3",
        Training(epochs=1),
        # The radius is that of arXiv:1706.06083; a robust accuracy of 95 % on validation is never
        # reached in three rounds.
        Correct(
            inner=PGD(eps=0.3, steps=7, step_size=0.075),
            twins=Online(),
            lam=1.0,
            lr=1e-3,
            schedule="cosine",
            stop=Stop(rounds=4, judge=PGD(eps=0.3, steps=20)),
        ),
    ),
    "cifar": Network("cifar10", "preact-resnet", Training(epochs=20, lr=2e-3, schedule="cosine")),
}


def network(name: str, root: Path | None = None) -> tuple[nn.Module, DataSet]:
    """One of ``NETWORKS``, trained now or read from its file, and its data."""
    recipe = NETWORKS[name]
    whole = data.load(recipe.data, root=root)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.safetensors"
    base = path if recipe.repair is None else FOLDER / f"{name}-base.safetensors"
    say = Say(name)
    making.trained(base, recipe.kind, whole, recipe.training, seed=SEED, on_step=say)
    if recipe.repair is not None and not path.exists():
        about: dict[str, Any] = {"repair": repr(recipe.repair), "seed": SEED, "data": whole.name}
        snapshot = FileSnapshot(FOLDER / f"{name}.repair.safetensors", about)
        evidence = Evidence(whole.train, whole.validation)
        model = checkpoints.load(base).model.requires_grad_(True)
        done = recipe.repair(model, evidence, seed=SEED, snapshot=snapshot, on_step=say)
        record = {**about, "log": done.log}
        checkpoints.save(path, done.classifier, classes=whole.classes, training=record)
        snapshot.clear()
    return checkpoints.load(path).model, whole


class Say:
    """Tell every ten seconds how far a training is."""

    def __init__(self, name: str) -> None:
        self._name, self._told = name, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            where = f"epoch {progress.epoch}/{progress.epochs}, {progress.done}/{progress.rows}"
            print(f"{self._name}: {where}, loss {progress.loss:.4f}", flush=True)


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--data-root", type=Path, help="folder of the data sets")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        network(name, arguments.data_root)


if __name__ == "__main__":
    main()
