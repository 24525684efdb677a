"""Is every attack at least as strong as the peers' on the same network, images and settings?

Each cell attacks the first images of a test split, those that the network classifies right, with
our attack and with every peer that has it, and judges all images alike: an image counts as found if
the network is fooled and it lies in box and ball. Writes results/attacks-strength.json and its page
in docs/results/. Done cells are kept in runs/benchmarks/strength/, so a run can be put down.

    python benchmarks/strength.py --network lenet
    python benchmarks/strength.py --write

Metrics: ``robust@EPS`` (share of all images that stand), ``median:NORM`` (median distance of the
images that were right), the same with ``:PEER``, and ``excess``: ours minus the best peer's robust
accuracy, or ours over the best peer's median less 1. Below zero is stronger than all peers.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from networks import FOLDER, NETWORKS, PAGES, RESULTS, SEED, network
from numpy.typing import NDArray
from peers import (
    LONG,
    MISSING,
    Peer,
    in_turn_torchattacks,
    of_advlib,
    of_art,
    of_foolbox,
    of_torchattacks,
    present,
)
from torch import Tensor, nn

from bezoar import attacks, audit
from bezoar.attacks import Attack
from bezoar.files import read_json, write_json
from bezoar.geometry import DISTANCES
from bezoar.referee import name_of
from bezoar.report import sheet
from bezoar.results import Rate
from bezoar.runs import provenance

CELLS = FOLDER / "strength"
NAME = "attacks-strength"
INF = math.inf


class Radii(NamedTuple):
    """Radii at which a good part of the images stands and a good part falls."""

    linf: float
    l2: float
    l1: float


RADII = {
    "lenet": Radii(0.06, 0.8, 8.0),
    "lenet-robust": Radii(0.3, 1.5, 8.0),
    "cifar": Radii(1 / 255, 0.12, 1.5),
}


class Counts(NamedTuple):
    """Images of a cell: at a fixed radius, the long ones there, nearest, black box, slow peers."""

    ball: int
    long: int
    nearest: int
    black_box: int
    slow: int


COUNTS = {
    "lenet": Counts(1000, 1000, 200, 100, 64),
    # A pass costs 15 and 30 times as much as on the first.
    "lenet-robust": Counts(1000, 200, 32, 16, 8),
    "cifar": Counts(1000, 128, 32, 16, 8),
}


class Cell(NamedTuple):
    """Our attack, the peers' by name, and on how many images."""

    ours: Attack
    peers: dict[str, Peer]
    images: int


def cells(radii: Radii, counts: Counts) -> Iterator[Cell]:
    """All comparisons on one network."""
    yield from _one_step(radii.linf, counts.ball)
    yield from _steps(radii, counts.ball)
    yield from _momentum(radii.linf, counts.ball)
    yield from _auto(radii, counts)
    yield from _nearest(counts.nearest, counts.slow)
    yield from _scores(radii, counts)
    yield from _decisions(counts.black_box, counts.slow)


def _one_step(eps: float, n: int) -> Iterator[Cell]:
    peers = {
        "foolbox": of_foolbox("FGSM", eps, random_start=False),
        "torchattacks": of_torchattacks("FGSM", eps=eps),
        "art": of_art("FastGradientMethod", norm=INF, eps=eps, eps_step=eps, batch_size=128),
    }
    yield Cell(attacks.FGSM(eps=eps), peers, n)
    started = {"torchattacks": of_torchattacks("FFGSM", eps=eps, alpha=1.25 * eps)}
    yield Cell(attacks.FGSMRandomStart(eps=eps), started, n)


def _steps(radii: Radii, n: int) -> Iterator[Cell]:
    eps, step = radii.linf, radii.linf / 10
    basic = {
        "foolbox": of_foolbox("LinfBasicIterativeAttack", eps, abs_stepsize=step, steps=10),
        "torchattacks": of_torchattacks("BIM", eps=eps, alpha=step, steps=10),
    }
    yield Cell(attacks.BIM(eps=eps), basic, n)
    step = 2.5 * eps / 40
    projected = {
        "foolbox": of_foolbox("LinfPGD", eps, abs_stepsize=step, steps=40),
        "torchattacks": of_torchattacks("PGD", eps=eps, alpha=step, steps=40),
        "art": _art_pgd(INF, eps, step),
        "adv-lib": of_advlib("pgd_linf", ε=eps, absolute_step_size=step, steps=40),
    }
    yield Cell(attacks.PGD(eps=eps), projected, n)
    eps, step = radii.l2, 2.5 * radii.l2 / 40
    in_l2 = {
        "foolbox": of_foolbox("L2PGD", eps, abs_stepsize=step, steps=40),
        "torchattacks": of_torchattacks("PGDL2", eps=eps, alpha=step, steps=40),
        "art": _art_pgd(2, eps, step),
    }
    yield Cell(attacks.PGDL2(eps=eps), in_l2, n)


def _art_pgd(norm: float, eps: float, step: float) -> Peer:
    settings: dict[str, Any] = {
        "norm": norm,
        "eps": eps,
        "eps_step": step,
        "max_iter": 40,
        "num_random_init": 1,
    }
    return of_art("ProjectedGradientDescentPyTorch", **settings, batch_size=128, verbose=False)


def _momentum(eps: float, n: int) -> Iterator[Cell]:
    same: dict[str, Any] = {"eps": eps, "alpha": eps / 10, "steps": 10, "decay": 1.0}
    for ours, theirs, more in (
        (attacks.MIFGSM(eps=eps), "MIFGSM", {}),
        (attacks.NIFGSM(eps=eps), "NIFGSM", {}),
        (attacks.SIFGSM(eps=eps), "SINIFGSM", {"m": 5}),
        (attacks.VMIFGSM(eps=eps, samples=5), "VMIFGSM", {"N": 5}),
        (attacks.DIFGSM(eps=eps), "DIFGSM", {}),
        (attacks.TIFGSM(eps=eps), "TIFGSM", {"len_kernel": 5, "nsig": 1}),
    ):
        yield Cell(ours, {"torchattacks": of_torchattacks(theirs, **same, **more)}, n)


def _auto(radii: Radii, counts: Counts) -> Iterator[Cell]:
    n = counts.long
    for norm, eps, size in (("linf", radii.linf, INF), ("l2", radii.l2, 2)):
        for loss, of_art_too in (("ce", "cross_entropy"), ("dlr", "difference_logits_ratio")):
            ours = attacks.APGD(eps=eps, norm=norm, loss=loss)
            long: dict[str, Any] = {"norm": size, "eps": eps, "eps_step": 2 * eps, "max_iter": 100}
            peers = {
                "torchattacks": _torchattacks("APGD", norm, eps, steps=100, loss=loss),
                "adv-lib": of_advlib("apgd", eps=eps, norm=size, loss_function=loss),
                "art": of_art(
                    "AutoProjectedGradientDescent",
                    **long,
                    nb_random_init=1,
                    loss_type=of_art_too,
                    batch_size=128,
                    verbose=False,
                ),
            }
            yield Cell(ours, peers, n)
        few = n if n >= 1000 else n // 3
        targeted = {
            "torchattacks": _torchattacks("APGDT", norm, eps, steps=50),
            "adv-lib": of_advlib("apgd_targeted", eps=eps, norm=size, n_iter=50),
        }
        yield Cell(attacks.APGDTargeted(eps=eps, norm=norm, steps=50), targeted, few)
        borders = {
            "torchattacks": _torchattacks("FAB", norm, eps, steps=50, multi_targeted=True),
            "adv-lib": of_advlib("fab", norm=size, n_iter=50, targeted_restarts=True, restarts=9),
        }
        yield Cell(attacks.FABTargeted(eps=eps, norm=norm, steps=50), borders, few // 2)
        queries = 1000
        square = attacks.Square if norm == "linf" else attacks.SquareL2
        random = {
            "torchattacks": _torchattacks("Square", norm, eps, n_queries=queries),
            "art": of_art(
                "SquareAttack", norm=size, eps=eps, max_iter=queries, batch_size=128, verbose=False
            ),
        }
        yield Cell(square(eps=eps, steps=queries), random, counts.black_box)
        parts: list[tuple[str, dict[str, Any]]] = [
            ("APGD", {"steps": 100, "loss": "ce"}),
            ("APGDT", {"steps": 50}),
            ("FAB", {"steps": 50, "multi_targeted": True}),
            ("Square", {"n_queries": queries}),
        ]
        standard = attacks.AutoAttack(eps=eps, norm=norm, steps=50, queries=queries)
        four = [(name, {"norm": LONG[norm], "eps": eps, **more}) for name, more in parts]
        four[0][1]["steps"] = 50
        peers = {"torchattacks": in_turn_torchattacks(*four)}
        yield Cell(standard, peers, n if n >= 1000 and norm == "linf" else counts.black_box)
    sparse = {"adv-lib": of_advlib("apgd", eps=radii.l1, norm=1, loss_function="ce")}
    yield Cell(attacks.APGDL1(eps=radii.l1), sparse, n)


def _torchattacks(attack: str, norm: str, eps: float, **more: Any) -> Peer:
    return of_torchattacks(attack, norm=LONG[norm], eps=eps, **more)


def _nearest(n: int, slow: int) -> Iterator[Cell]:
    fools = {
        "foolbox": of_foolbox("L2DeepFoolAttack"),
        "torchattacks": of_torchattacks("DeepFool"),
        "art": of_art("DeepFool", max_iter=50, epsilon=0.02, batch_size=64, verbose=False),
        "adv-lib": of_advlib("df", steps=50, norm=2),
    }
    yield Cell(attacks.DeepFool(), fools, n)
    wide = {
        "foolbox": of_foolbox("LinfDeepFoolAttack"),
        "adv-lib": of_advlib("df", steps=50, norm=INF),
    }
    yield Cell(attacks.DeepFool(norm="linf"), wide, n)
    decoupled = {
        "foolbox": of_foolbox("DDNAttack"),
        "adv-lib": of_advlib("ddn", levels=None),
    }
    yield Cell(attacks.DDN(), decoupled, n)
    for norm, size, theirs in (
        ("linf", INF, "LInfFMNAttack"),
        ("l2", 2, "L2FMNAttack"),
        ("l1", 1, "L1FMNAttack"),
        ("l0", 0, "L0FMNAttack"),
    ):
        start = 10.0 if norm == "linf" else 1.0  # arXiv:2102.12827 takes 10 for Linf
        peers = {
            "foolbox": of_foolbox(theirs, max_stepsize=start),
            "adv-lib": of_advlib("fmn", norm=size, steps=100, α_init=start),
        }
        yield Cell(attacks.FMN(norm=norm, step_size=start), peers, n)
    short = {"binary_search_steps": 9, "initial_const": 1e-3}
    penalties = {
        "foolbox": of_foolbox("L2CarliniWagnerAttack", steps=200, **short),
        "adv-lib": of_advlib("carlini_wagner_l2", max_iterations=200, **short),
        "torchattacks": of_torchattacks("CW", steps=200),
    }
    yield Cell(attacks.CWL2(steps=1800), penalties, n)
    shrunk = {"adv-lib": of_advlib("carlini_wagner_linf", max_iterations=100)}
    yield Cell(attacks.CWLinf(), shrunk, slow)
    elastic = {
        "foolbox": of_foolbox("EADAttack", steps=200, decision_rule="L1", **short),
    }
    yield Cell(attacks.EAD(steps=1800, beta=0.01), elastic, n)
    sparse = {"adv-lib": of_advlib("sigma_zero", num_steps=300)}
    yield Cell(attacks.SigmaZero(steps=300), sparse, n)
    newton = {
        "foolbox": of_foolbox("NewtonFoolAttack"),
        "art": of_art("NewtonFool", max_iter=100, batch_size=64, verbose=False),
    }
    yield Cell(attacks.NewtonFool(), newton, slow)
    for norm, theirs in (("l2", "L2BrendelBethgeAttack"), ("linf", "LinfinityBrendelBethgeAttack")):
        border = {"foolbox": of_foolbox(theirs, steps=500)}
        yield Cell(attacks.BrendelBethge(norm=norm), border, slow)
    maps = {
        "torchattacks": of_torchattacks("JSMA", theta=1.0, gamma=0.15),
    }
    yield Cell(attacks.JSMA(), maps, slow)


def _scores(radii: Radii, counts: Counts) -> Iterator[Cell]:
    n, slow = counts.black_box, counts.slow
    eps = radii.linf
    estimated = {
        "torchattacks": of_torchattacks(
            "SPSA", eps=eps, delta=0.01, lr=0.01, nb_iter=20, nb_sample=64, max_batch_size=64
        )
    }
    yield Cell(attacks.SPSA(eps=eps, steps=20, samples=64), estimated, slow)
    settings: dict[str, Any] = {"attack": "px", "max_iter": 1000, "epsilon": 0.2}
    simple = {"art": of_art("SimBA", one_hot=True, **settings, verbose=False)}
    yield Cell(attacks.SimBA(), simple, slow)
    orders = {
        "art": of_art(
            "ZooAttack",
            max_iter=300,
            binary_search_steps=1,
            initial_const=10.0,
            use_resize=False,
            use_importance=False,
            nb_parallel=128,
            verbose=False,
        )
    }
    if slow >= 64:  # elsewhere an image costs the peer minutes
        yield Cell(attacks.ZOO(steps=300), orders, slow // 4)
    # What these three are held to is the change that they make, not a distance.
    pixels = 5
    evolved = {
        "torchattacks": of_torchattacks("OnePixel", pixels=pixels, steps=30, popsize=10),
    }
    yield Cell(attacks.OnePixel(eps=3 * pixels, pixels=pixels, steps=30), evolved, slow)
    moved = {"torchattacks": of_torchattacks("Pixle", restarts=5, max_iterations=10)}
    yield Cell(attacks.Pixle(eps=1e4, steps=50), moved, n)
    turned = {
        "art": of_art(
            "SpatialTransformation",
            max_translation=10.0,
            num_translations=3,
            max_rotation=30.0,
            num_rotations=5,
            verbose=False,
        )
    }
    yield Cell(attacks.Spatial(eps=1e3, steps=45), turned, n)


def _decisions(n: int, slow: int) -> Iterator[Cell]:
    for norm, size in (("l2", 2), ("linf", INF)):
        jumps = {
            "foolbox": of_foolbox("HopSkipJumpAttack", steps=30, constraint=norm),
            "art": of_art("HopSkipJump", norm=size, max_iter=30, verbose=False),
        }
        yield Cell(attacks.HopSkipJump(norm=norm), jumps, slow)
    walks = {"foolbox": of_foolbox("BoundaryAttack", steps=5000)}
    yield Cell(attacks.Boundary(), walks, slow)
    planes = {"art": of_art("GeoDA", norm=2, max_iter=4000, verbose=False)}
    yield Cell(attacks.GeoDA(), planes, slow)
    signs = {
        "art": of_art("SignOPTAttack", targeted=False, query_limit=4000, max_iter=50),
    }
    yield Cell(attacks.SignOPT(), signs, slow)


# ------------------------------------------------------------------------- running and judging


def measured(cell: Cell, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """What our attack and each peer's does to the images: fooled, distance, seconds."""
    with torch.no_grad():
        right = model(x).argmax(dim=1) == y
    x, y = x[right], y[right]
    found = {"": _judged(lambda *a: cell.ours(*a, seed=SEED), cell.ours, model, x, y)}
    for name, peer in present(cell.peers).items():
        found[name] = _judged(peer, cell.ours, model, x, y)
    return {"count": len(right), "right": int(right.sum()), "found": found}


def _judged(run: Peer, ours: Attack, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    torch.manual_seed(SEED)  # the peers draw from the global states
    np.random.seed(SEED)  # noqa: NPY002
    start = time.perf_counter()
    try:
        x_adv = run(model, x.clone(), y.clone())
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    seconds = time.perf_counter() - start
    model.eval().requires_grad_(True)
    x_adv = x_adv.detach().to(x)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x_adv.split(128)])
    fooled = logits.argmax(dim=1) != y
    distance = DISTANCES[ours.norm](x_adv, x)
    counts = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1) & (distance <= ours.eps + 1e-5)
    away = torch.where(fooled & counts, distance.double(), -1.0)
    return {"distance": away.tolist(), "outside": int((~counts).sum()), "seconds": seconds}


def rows(case: str, ours: Attack, cell: dict[str, Any]) -> list[audit.Row]:
    """The rows of a cell; ``excess`` only where a peer could run."""
    count = cell["count"]
    known = {name: f for name, f in cell["found"].items() if "error" not in f}
    made: list[audit.Row] = []
    values = {}
    for name, found in known.items():
        suffix = f":{name}" if name else ""
        away = np.array(found["distance"])
        if ours.eps < INF:
            rate = Rate(int((away < 0).sum()), count)
            made.append(audit.rate_row(case, SEED, f"robust{suffix}@{ours.eps:.3g}", rate))
            values[name] = rate.value
        else:
            values[name] = _median(away)
            if values[name] < INF:
                metric = f"median:{ours.norm}{suffix}"
                made.append({**audit.number_row(case, SEED, metric, values[name]), "n": len(away)})
        made.append(audit.number_row(case, SEED, f"seconds{suffix}", found["seconds"]))
    peers = [value for name, value in values.items() if name]
    if peers and (ours.eps < INF or min(peers) < INF) and values[""] < INF:
        best = min(peers)
        excess = values[""] - best if ours.eps < INF else values[""] / best - 1
        made.append({**audit.number_row(case, SEED, "excess", excess), "n": count})
    return made


def _median(away: NDArray[np.float64]) -> float:
    """Median distance; what was not found is infinitely far."""
    return float(np.median(np.where(away < 0, INF, away)))


def main() -> None:
    """Measure what is not there yet, or write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), action="append")
    parser.add_argument("--attack", action="append", help="only attacks whose name starts so")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--write", action="store_true", help="write results and page, measure none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = arguments.network or list(NETWORKS)
    table: list[audit.Row] = []
    missing: list[str] = []
    revisions: set[str] = set()
    for name in names:
        for cell in cells(RADII[name], COUNTS[name]):
            case = f"{name} {name_of(cell.ours)}"
            path = CELLS / f"{case.replace(' ', '/')}-{cell.ours.norm}.json"
            wanted = any(name_of(cell.ours).startswith(a) for a in arguments.attack or [""])
            done: dict[str, Any] = read_json(path) if path.exists() else {"count": 0}
            if done["count"] != cell.images and wanted and not arguments.write:
                model, whole = network(name, arguments.data_root)
                x, y = whole.test.batch(slice(cell.images))
                path.parent.mkdir(parents=True, exist_ok=True)
                about = {"ours": repr(cell.ours), "revision": provenance("")["revision"]}
                done = {**about, **measured(cell, model, x, y)}
                write_json(path, done)
            if done["count"]:
                made = rows(case, cell.ours, done)
                table += made
                revisions.add(done["revision"])
                _say(case, made, done)
            else:
                missing.append(case)
    if arguments.write:
        notes = provenance("python benchmarks/strength.py")
        notes["revision"] = ", ".join(sorted(revisions))
        table_of = audit.results(notes, table, {})
        if missing:
            table_of["missing"] = missing
        sheet.write(table_of, NAME, RESULTS, PAGES)
    if MISSING:
        print(f"peers that are not installed: {', '.join(MISSING)}")


def _say(case: str, made: list[audit.Row], cell: dict[str, Any]) -> None:
    shown = "  ".join(f"{row['metric']} {row['value']:.4g}" for row in made)
    failed = "  ".join(
        f"{name}: {found['error']}" for name, found in cell["found"].items() if "error" in found
    )
    print(f"{case}: {shown}  {failed}", flush=True)


if __name__ == "__main__":
    main()
