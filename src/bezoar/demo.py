"""The whole path on data that come along: train, attack, unlearn, attack again, report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bezoar import audit, checkpoints, data, experiments, making
from bezoar.attacks import PGD
from bezoar.experiments import OnUnit, Plan
from bezoar.fit import Progress
from bezoar.repairs import Correct, Stop
from bezoar.runs import Run
from bezoar.training import Training

EPS = 0.08
CURVE = (0.02, 0.06, 0.1, 0.15, 0.2)


def demo(
    out: Path,
    seed: int,
    notes: dict[str, str],
    *,
    on_step: Callable[[Progress], None],
    on_unit: OnUnit,
) -> dict[str, Any]:
    """Run it in the folder ``out``, or take it up there; return the content of results.json."""
    whole = data.load("digits")
    kind, training = "lenet-fig3", Training(epochs=30, batch=64, patience=30)
    # Settings by validation. Twins at a slightly larger radius leave a margin at EPS.
    repair = Correct(
        inner=PGD(eps=1.25 * EPS, steps=4),
        batch=32,
        schedule="cosine",
        lr=4e-3,
        stop=Stop(rounds=60, target=0.96, judge=PGD(eps=EPS, steps=10)),
    )
    plan = Plan(eps=EPS, attacks=audit.evasion(EPS, CURVE), seed=seed)
    about = {
        "title": "Handwritten digits",
        "seed": seed,
        "model": {"kind": kind, "training": repr(training)},
        "data": experiments.described(whole, whole.test),
        "settings": experiments.settings(plan, repair, paper="lenet-fgsm"),
    }
    run = Run(out, about, notes)
    path = run.path / "base.safetensors"
    making.trained(path, kind, whole, training, seed=seed, on_step=on_step)
    model = checkpoints.load(path).model
    return experiments.repair(run, model, whole, repair, plan, on_step=on_step, on_unit=on_unit)
