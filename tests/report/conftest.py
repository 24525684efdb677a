"""A run folder made by hand: twelve images of 1 x 6 x 5, two attacks before and after a repair."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

CLASSES = ["zero", "<script>alert(1)</script>", "two & a half"]
LABEL = np.arange(12) % 3
INDEX = 10 * np.arange(12) + 3
WRONG = (LABEL + 1) % 3


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def pixels(channels: int = 1) -> np.ndarray:
    ramp = np.arange(12 * channels * 30, dtype=np.float32).reshape(12, channels, 6, 5)
    return np.rint(255 * ramp / ramp.max()).astype(np.uint8)


def write_measurement(
    run: Path,
    case: str,
    metric: str,
    fooled: int,
    *,
    wrong: int = 0,
    channels: int = 1,
    scored_on: str = "",
    attack: str = "",
) -> None:
    """Two files of 6 images; the first ``wrong`` are wrong clean, the next ``fooled`` attacked."""
    folder = run / "measurements" / case / metric
    hash_ = f"hash-{case}"
    stamp = {
        "metric": metric,
        "attack": attack or metric.partition("@")[0],
        "recipe": f"{metric.partition('@')[0].upper()}(eps={metric.partition('@')[2]})",
        "norm": "linf",
        "eps": float(metric.partition("@")[2]),
        "made_on": hash_,
        "scored_on": scored_on or hash_,
        "access": "white-box",
        "seed": 0,
        "stop": "success",
    }
    write_json(folder / "stamp.json", stamp)
    clean = np.where(np.arange(12) < wrong, WRONG, LABEL)
    adversarial = np.where(np.arange(12) < wrong + fooled, WRONG, LABEL)
    x = pixels(channels).astype(np.float32) / 255
    sign = np.where(np.arange(x[0].size) % 2, 1, -1).reshape(x.shape[1:])
    x_adv = np.clip(x + 0.1 * sign, 0, 1).astype(np.float32)
    for number, part in enumerate((slice(0, 6), slice(6, 12))):
        write_arrays(
            folder / f"{number:06d}.safetensors",
            index=INDEX[part],
            label=LABEL[part],
            clean=clean[part],
            adversarial=adversarial[part],
            clean_loss=np.full(6, 0.1, np.float32),
            loss=np.full(6, 1.5, np.float32),
            distance=np.full(6, 0.1, np.float32),
            first_success=np.zeros(6, np.int64),
            forward=np.full(6, 2),
            backward=np.full(6, 1),
            zero_gradient=np.zeros(6, bool),
            x_adv=x_adv[part],
        )


def write_run(run: Path, *, repaired: bool = True, channels: int = 1) -> Path:
    write_json(
        run / "run.json",
        {
            "format": 1,
            "command": "bezoar demo",
            "title": "Digits & <b>LeNet</b>",
            "seed": 0,
            "revision": "abc123",
            "version": "0.1.0",
            "machine": "2 cores, CPU",
            "data": {"name": "digits", "classes": CLASSES, "train": 5, "validation": 4, "test": 12},
            "model": {"kind": "lenet-fig4", "fields": {"classes": 3}},
            "settings": {"eps": [0.1, 0.2], "paper": "lenet-fgsm"},
        },
    )
    write_arrays(
        run / "images" / "test.safetensors", pixels=pixels(channels), label=LABEL, index=INDEX
    )
    rows = [
        row("before", "clean", 11, loss=0.1),
        row("before", "fgsm@0.1", 5, loss=1.5),
        row("before", "fgsm@0.2", 2),
        row("before", "pgd@0.1", 3),
        row("before", "noise@0.1", 11),
        {"case": "before", "seed": 0, "metric": "loss", "value": 0.1, "paper": 0.0271},
        {"case": "before", "seed": 0, "metric": "loss:fgsm@0.1", "value": 1.5},
        {"case": "before", "seed": 0, "metric": "passes", "value": 1200},
    ]
    cases = [("before", {"fgsm@0.1": 6, "fgsm@0.2": 9, "pgd@0.1": 8, "noise@0.1": 0})]
    if repaired:
        rows += [
            row("after", "clean", 11),
            {**row("after", "fgsm@0.1", 10), "paper": 0.9669},
            row("after", "fgsm@0.2", 8),
            row("after", "pgd@0.1", 9),
            row("after", "noise@0.1", 11),
            {"case": "after", "seed": 0, "metric": "passes", "value": 900},
        ]
        cases += [("after", {"fgsm@0.1": 1, "fgsm@0.2": 3, "pgd@0.1": 2, "noise@0.1": 0})]
        write_json(run / "repair.json", REPAIR)
    for case, metrics in cases:
        for metric, fooled in metrics.items():
            write_measurement(run, case, metric, fooled, wrong=1, channels=channels)
    write_json(
        run / "results.json",
        {
            "format": 1,
            "command": "bezoar demo",
            "revision": "abc123",
            "machine": "2 cores, CPU",
            "rows": rows,
            "warnings": [{"case": "before", "kind": "masked-gradients", "text": "FGSM <i>80%</i>"}],
            "verdict": {
                "sick": {"outcome": "not met", "text": "worst at least 80%: 25% (3/12)"},
                "well": {"outcome": "undecided", "text": "worst at least 80%: 75% (9/12)"},
            },
        },
    )
    return run


def row(case: str, metric: str, count: int, **_: float) -> dict[str, object]:
    from bezoar.results import Rate

    rate = Rate(count, 12)
    low, high = rate.interval
    names = {"case": case, "seed": 0, "metric": metric}
    return {**names, "value": rate.value, "low": low, "high": high, "n": 12}


REPAIR = {
    "name": "correct-online",
    "repr": "CorrectOnline(share=0.5, attack=PGD(eps=0.1))",
    "attack": "pgd eps 0.1, 7 steps",
    "rows": [
        {"round": 0, "clean": 0.95, "robust": 0.2},
        {"round": 1, "loss": 0.9, "clean": 0.96, "robust": 0.7, "added": 1078, "removed": 0},
        {"round": 2, "loss": 0.4, "clean": 0.97, "robust": 0.8, "added": 1078, "removed": 0},
    ],
    "cost": {"images": 2156, "forward": 9000, "backward": 8000, "seconds": 12.5},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the run, made once."""
    from bezoar.report.pages import render

    return render(write_run(tmp_path_factory.mktemp("report")))
