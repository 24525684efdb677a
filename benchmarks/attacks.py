"""How fast are the attacks, beside the bare passes and beside the peers?

One process, the same networks, images (those of the first that the network classifies right) and
settings, one warm-up, then the runs in alternating order; seconds are medians. Four regimes: every
step of every image (``full``), and robust accuracy where nearly all images fall, where about half
do, and where about 93 % stand. Writes results/attacks-speed.json and its page in docs/results/. Let
nothing else run beside it.

    python benchmarks/attacks.py
    python benchmarks/attacks.py --memory
    python benchmarks/attacks.py --write
    python benchmarks/attacks.py --network lenet --attack pgd --threads 1

Metrics: ``ratio:floor``: seconds of the bare forward and input-gradient passes of the prepared
network over ours; ``ratio:PEER`` and ``ratio:fastest``: the peer's seconds over ours;
``ratio:bfloat16``: those of ours with a search in bfloat16 first;
``memory:PEER``: the peer's peak memory over ours, by what a process of its own grew at most, once
warm; a pass of its own, with one thread.
"""

import argparse
import ctypes
import gc
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from networks import FOLDER, NETWORKS, PAGES, RESULTS, SEED, network
from peers import (
    MISSING,
    Peer,
    autoattack_of_art,
    in_turn_torchattacks,
    of_advlib,
    of_art,
    of_foolbox,
    of_torchattacks,
    present,
)
from torch import Tensor, nn

from bezoar import audit
from bezoar.attacks import PGD, Attack, AutoAttack, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.classifier import Lowered, prepare
from bezoar.files import read_json, write_json
from bezoar.referee import name_of
from bezoar.report import sheet
from bezoar.results import Rate
from bezoar.runs import provenance
from bezoar.seeds import Noise

NAME = "attacks-speed"
CELLS = FOLDER / "speed"
BATCH = 128  # ours, and of the peers that take one
OURS = ("", "floor", "bfloat16")
Run = Callable[[], Tensor]


class Regimes(NamedTuple):
    """Radii in Linf, found on validation images, and how many test images are attacked."""

    falls: float
    half: float
    stands: float
    images: int
    autoattack: int


REGIMES = {
    "lenet": Regimes(0.3, 0.092, 0.03, 512, 256),
    "lenet-robust": Regimes(0.5, 0.342, 0.1, 64, 16),
    "cifar": Regimes(4 / 255, 0.4 / 255, 0.05 / 255, 64, 16),
}


class Case(NamedTuple):
    """One comparison."""

    regime: str
    ours: Attack
    peers: dict[str, Peer]
    images: int


def cases(regimes: Regimes) -> Iterator[Case]:
    """All comparisons on one network."""
    half = regimes.half
    yield Case("full", PGD(eps=half), _pgd(half), regimes.images)
    for regime in ("falls", "half", "stands"):
        eps = getattr(regimes, regime)
        yield Case(regime, PGD(eps=eps), _pgd(eps), regimes.images)
    steps, queries = 50, 1000
    long = {"norm": "Linf", "eps": half}
    standard = {
        "torchattacks": in_turn_torchattacks(
            ("APGD", {**long, "steps": steps, "loss": "ce"}),
            ("APGDT", {**long, "steps": steps}),
            ("FAB", {**long, "steps": steps, "multi_targeted": True}),
            ("Square", {**long, "n_queries": queries}),
        ),
        "art": autoattack_of_art("linf", half, steps, queries, BATCH),
    }
    ours = AutoAttack(eps=half, steps=steps, queries=queries)
    yield Case("half", ours, standard, regimes.autoattack)


def _pgd(eps: float) -> dict[str, Peer]:
    step = 2.5 * eps / 40
    long: dict[str, Any] = {
        "norm": math.inf,
        "eps": eps,
        "eps_step": step,
        "max_iter": 40,
        "num_random_init": 1,
    }
    return {
        "foolbox": of_foolbox("LinfPGD", eps, abs_stepsize=step, steps=40),
        "torchattacks": of_torchattacks("PGD", eps=eps, alpha=step, steps=40),
        "art": of_art("ProjectedGradientDescentPyTorch", **long, batch_size=BATCH, verbose=False),
        "adv-lib": of_advlib("pgd_linf", ε=eps, absolute_step_size=step, steps=40),
    }


def batched(peer: Peer) -> Peer:
    """A peer as its users call it: batch after batch."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat([peer(model, part, of_part) for part, of_part in parts])

    return run


def floor(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """The forward and input-gradient passes of an attack and nothing else."""
    prepared = prepare(model)
    for part, of_part in zip(x.split(BATCH), y.split(BATCH), strict=True):
        point = part.clone()
        for _ in range(steps):
            point = point.detach().requires_grad_()
            loss = F.cross_entropy(prepared(point), of_part, reduction="sum")
            torch.autograd.grad(loss, point)
    return x


def lowered(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """Ours, with a search in bfloat16 first."""
    prepared = prepare(model, x[:4])
    goal, low = Untargeted(y), Lowered(prepared)
    return search(attack, prepared, x, goal, noise, batch=BATCH, low=low).x_adv


def contestants(case: Case, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Run]:
    """All that run a case, by name; ours is ""."""
    noise = Noise.first(SEED, "benchmark", np.arange(len(x)))

    def ours() -> Tensor:
        if case.regime == "full":
            return perturb(case.ours, prepare(model), x, Untargeted(y), noise, batch=BATCH).x_adv
        return case.ours(model, x, y, seed=SEED)

    runs: dict[str, Run] = {"": ours}
    for name, peer in present(case.peers).items():
        runs[name] = partial(batched(peer), model, x, y)
    if case.regime == "full":
        runs["floor"] = lambda: floor(model, x, y, case.ours.steps)
    elif not case.ours.parts:
        runs["bfloat16"] = lambda: lowered(case.ours, model, x, y, noise)
    return runs


def measured(case: Case, model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> dict[str, Any]:
    """Seconds and robust images of all contestants."""
    runs = contestants(case, model, x, y)
    standing = {}
    for name, run in runs.items():  # the warm-up
        torch.manual_seed(SEED)
        x_adv = run()
        with torch.no_grad():
            right = torch.cat([model(part) for part in x_adv.detach().split(BATCH)]).argmax(dim=1)
        standing[name] = int((right == y).sum())
        model.eval().requires_grad_(True)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs)[:: 1 if repeat % 2 == 0 else -1]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
            model.eval().requires_grad_(True)
    noise = Noise.first(SEED, "benchmark", np.arange(len(x)))
    way = perturb if case.regime == "full" else search
    spent = way(case.ours, prepare(model), x, Untargeted(y), noise, batch=BATCH)
    passes = int((spent.forward + spent.backward).sum())
    return {
        "count": len(x),
        "seconds": seconds,
        "standing": standing,
        "passes": passes / len(x),
    }


def grown(run: Run) -> float:
    """By how many bytes this process grows at most while something runs, once warm."""
    run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up left behind is no part of it
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = _kilobytes(status, "VmRSS")
    run()
    return 1024 * max(_kilobytes(status, "VmHWM") - before, 1)


def weighed(label: str, name: str, root: Path | None) -> float:
    """What ``grown`` says of one contestant of a case, in a process of its own."""
    words = [sys.executable, __file__, "--weigh", label, "--contestant", name]
    words += ["--data-root", str(root)] if root else []
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return float(said.splitlines()[-1])


def _kilobytes(status: Path, name: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1])


def rows(label: str, case: Case, cell: dict[str, Any]) -> list[audit.Row]:
    """The rows of a case."""
    seconds = {key: statistics.median(value) for key, value in cell["seconds"].items()}
    peers = [key for key in seconds if key not in OURS]
    metrics = {"seconds": seconds[""], "passes": cell["passes"]}
    metrics |= {f"seconds:{key}": value for key, value in seconds.items() if key}
    metrics |= {f"ratio:{key}": value / seconds[""] for key, value in seconds.items() if key}
    metrics["ratio:fastest"] = min(seconds[key] for key in peers) / seconds[""]
    if memory := cell.get("memory"):
        metrics["memory"] = memory[""]
        metrics |= {f"memory:{key}": memory[key] / memory[""] for key in peers}
    made = [audit.number_row(label, SEED, key, value) for key, value in metrics.items()]
    for key in ["", *peers, *({"bfloat16"} & set(seconds))]:
        rate = Rate(cell["standing"][key], cell["count"])
        metric = f"robust{':' if key else ''}{key}@{case.ours.eps:.3g}"
        made.append(audit.rate_row(label, SEED, metric, rate))
    return made


def shown(case: Case, network_of: str, root: Path | None) -> tuple[nn.Module, Tensor, Tensor]:
    """A network and the images of a case that it classifies right."""
    model, whole = network(network_of, root)
    x, y = whole.test.batch(slice(case.images))
    with torch.no_grad():
        right = model(x).argmax(dim=1) == y
    return model, x[right], y[right]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), action="append")
    parser.add_argument("--attack", action="append", help="only attacks whose name starts so")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each contestant")
    parser.add_argument("--memory", action="store_true", help="measure the memory of timed cases")
    parser.add_argument("--weigh", help=argparse.SUPPRESS)  # a case, for ``weighed``
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write results and page, measure none")
    arguments = parser.parse_args()
    labelled = {
        f"{name} {name_of(case.ours)} {case.regime}": (name, case)
        for name in arguments.network or list(NETWORKS)
        for case in cases(REGIMES[name])
    }
    if arguments.weigh:
        torch.set_num_threads(1)
        name, case = labelled[arguments.weigh]
        images = shown(case, name, arguments.data_root)
        print(grown(contestants(case, *images)[arguments.contestant]))
        return
    torch.set_num_threads(arguments.threads)
    done = {}
    for label, (name, case) in labelled.items():
        if any(name_of(case.ours).startswith(a) for a in arguments.attack or [""]):
            done[label] = cell(label, name, case, arguments)
            if done[label]:
                _say(label, rows(label, case, done[label]))
    if arguments.write:
        write({label: case for label, (_, case) in labelled.items()}, done)
    if MISSING:
        print(f"peers that are not installed: {', '.join(MISSING)}")


def cell(label: str, name: str, case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is known of a case, measured if it is to be; nothing if it is not known."""
    path = CELLS / f"{label.replace(' ', '-')}.json"
    done: dict[str, Any] = read_json(path) if path.exists() else {}
    if not done and not (arguments.write or arguments.memory):
        path.parent.mkdir(parents=True, exist_ok=True)
        # AutoAttack takes its time: the warm-up, and one run of each.
        repeats = 1 if case.ours.parts else arguments.repeats
        images = shown(case, name, arguments.data_root)
        done = {"revision": provenance("")["revision"], **measured(case, *images, repeats)}
        write_json(path, done)
    if done and arguments.memory and "memory" not in done:
        rivals = ["", *(key for key in done["seconds"] if key not in OURS)]
        done["memory"] = {key: weighed(label, key, arguments.data_root) for key in rivals}
        write_json(path, done)
    return done


def write(known: dict[str, Case], done: dict[str, dict[str, Any]]) -> None:
    """Write the results and their page."""
    found = {label: each for label, each in done.items() if each}
    table = [row for label, each in found.items() for row in rows(label, known[label], each)]
    notes = provenance("python benchmarks/attacks.py")
    notes["revision"] = ", ".join(sorted({each["revision"] for each in found.values()}))
    results: dict[str, Any] = audit.results(notes, table, {})
    if missing := [label for label, each in done.items() if not each]:
        results["missing"] = missing
    sheet.write(results, NAME, RESULTS, PAGES)


def _say(label: str, made: list[audit.Row]) -> None:
    said = "  ".join(
        f"{row['metric']} {row['value']:.3g}"
        for row in made
        if row["metric"].startswith(("ratio", "memory:", "robust", "passes"))
    )
    print(f"{label}: {said}", flush=True)


if __name__ == "__main__":
    main()
