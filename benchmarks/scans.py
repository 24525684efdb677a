"""How much faster is Neural Cleanse over all classes at once than one class after the other?

One process, the same network, images and settings, one warm-up, then both in alternating order;
seconds are medians. No class rests and the networks are as they were drawn, so that both take the
same steps, which is checked. Writes results/scans-speed.json and its page in docs/results/. Let
nothing else run beside it.

    python benchmarks/scans.py --data-root FOLDER

Metrics: ``ratio:one-by-one``: seconds of one class after the other over those of all at once, of
which ``seconds`` says how many.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from networks import PAGES, RESULTS, SEED

from bezoar import audit, data, models
from bezoar.costs import Meter
from bezoar.defence import few
from bezoar.report import sheet
from bezoar.runs import provenance
from bezoar.scans import NeuralCleanse
from bezoar.scans.neural_cleanse import Triggers, inverted

NAME = "scans-speed"


class Case(NamedTuple):
    """A network, the images that a scan has of each class, and those of a step."""

    data: str
    kind: str
    fields: dict[str, Any]
    spc: int
    batch: int

    @property
    def name(self) -> str:
        fields = "".join(f" {name} {value}" for name, value in self.fields.items())
        return f"{self.data} {self.kind}{fields} spc{self.spc} batch {self.batch}"


CASES = [
    Case("cifar10", "preact-resnet", {"width": 8}, 10, 20),
    Case("cifar10", "preact-resnet", {"width": 8}, 2, 4),
    Case("gtsrb", "lenet5", {}, 2, 20),
    Case("gtsrb", "lenet5", {}, 2, 4),
    Case("mnist", "lenet5", {}, 10, 20),
    Case("mnist", "lenet5", {}, 2, 4),
]


def measured(case: Case, root: Path | None, epochs: int, repeats: int) -> tuple[float, float]:
    """Seconds of all classes at once, and of one after the other."""
    whole = data.load(case.data, root=root)
    network = models.create(
        case.kind,
        shape=whole.train.shape,
        classes=len(whole.train.classes),
        seed=SEED,
        **case.fields,
    ).eval()
    images = few(whole.train, case.spc, seed=SEED, held=0).train
    scan = NeuralCleanse(epochs=epochs, rest=epochs + 1, batch=case.batch)

    def run(together: int) -> Callable[[], Triggers]:
        settings = replace(scan, together=together)
        return lambda: inverted(settings, network, images, seed=SEED, meter=Meter())

    runs = {"all": run(0), "one": run(1)}
    found = [work() for work in runs.values()]  # the warm-up
    torch.testing.assert_close(found[0].masks, found[1].masks, atol=0.05, rtol=0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs)[:: 1 if repeat % 2 == 0 else -1]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["all"]), statistics.median(seconds["one"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = []
    for case in CASES:
        fast, slow = measured(case, given.data_root, given.epochs, given.repeats)
        rows.append(audit.number_row(case.name, SEED, "ratio:one-by-one", slow / fast))
        rows.append(audit.number_row(case.name, SEED, "seconds", fast))
        print(f"{case.name}: {slow / fast:.2f} times, {fast:.2f} s")
    table = audit.results(provenance("python benchmarks/scans.py"), rows, {})
    table["about"] = [
        f"{given.epochs} epochs, medians of {given.repeats}, {torch.get_num_threads()} threads",
        "same network, images, settings and steps; untrained networks, of which no class rests",
    ]
    for path in sheet.write(table, NAME, RESULTS, PAGES):
        print(path)


if __name__ == "__main__":
    main()
