"""Check a run's evidence again: predict the kept adversarial images, without attacking."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bezoar.classifier import predict, weights_hash
from bezoar.classifier import said as classes
from bezoar.files import read_json
from bezoar.geometry import DISTANCES
from bezoar.referee import Measurement
from bezoar.report.tables import validate
from bezoar.results import border
from bezoar.runs.folder import read_arrays, read_measurement

# Another machine may round otherwise: a prediction may differ where two classes are this close.
TIE = 1e-3
SLACK = 1e-5


@dataclass(frozen=True)
class Line:
    """What was found of one measurement, and whether it is what was recorded.

    ``compared`` is false where the record is of other weights, so that nothing could differ.
    """

    measurement: str
    text: str
    agrees: bool
    compared: bool = True


def models(run: Path) -> list[Path]:
    """The model files of a run.

    Raises:
        FileNotFoundError: no run there, or one that holds no model.
    """
    if not (run / "run.json").exists():
        raise FileNotFoundError(f"{run}: expected a run folder of bezoar, with run.json")
    found = [run / f"{case}.safetensors" for case in ("before", "after")]
    found = [path for path in found if path.exists()]
    if not found:
        raise FileNotFoundError(f"{run}: holds no model; name the attacked one with --model FILE")
    return found


def check(run: Path, classifier: nn.Module) -> Iterator[Line]:
    """Predict every kept adversarial image again with a classifier.

    Measurements that were scored on these very weights are compared image by image: labels,
    predictions, distances, the ball, the box; and the rate that ``results.json`` states. Others
    are scored too, and called transfer.

    Args:
        run: the run folder.
        classifier: images to logits.

    Raises:
        FileNotFoundError: no run, or no measurements in it.
        ValueError: damaged files, or images that the classifier cannot take.
    """
    models_hash = weights_hash(classifier)
    clean = read_arrays(run / "images" / "test.safetensors")
    folders = sorted(path.parent for path in run.glob("measurements/*/*/stamp.json"))
    if not folders:
        raise FileNotFoundError(f"{run / 'measurements'}: expected measurements, found none")
    pixels = torch.from_numpy(np.asarray(clean["pixels"]))
    x = pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels
    stated = _stated(run / "results.json")
    position = {int(index): row for row, index in enumerate(clean["index"].tolist())}
    for folder in folders:
        kept = read_measurement(folder)
        missing = [index for index in kept.facts.index.tolist() if index not in position]
        if missing:
            raise ValueError(
                f"{folder}: image {missing[0]} is not in {run}/images/test.safetensors"
            )
        rows = [position[index] for index in kept.facts.index.tolist()]
        y = torch.from_numpy(np.asarray(clean["label"]))[rows]
        case = folder.parent.name
        free = kept.stamp.eps == math.inf
        rate = stated.get((case, f"{'found:' * free}{kept.stamp.metric}"))
        yield _line(case, kept, classifier, x[rows], y, models_hash, rate)


def _stated(path: Path) -> dict[tuple[str, str], float]:
    """The values of a results file by case and metric; none while there is no such file."""
    if not path.exists():
        return {}
    return {(row["case"], row["metric"]): row["value"] for row in validate(read_json(path))}


def _line(
    case: str,
    kept: Measurement,
    classifier: nn.Module,
    x: Tensor,
    label: Tensor,
    found: str,
    stated: float | None,
) -> Line:
    x_adv = torch.from_numpy(kept.x_adv)
    facts, stamp = kept.facts, kept.stamp
    low, high = (float(value) for value in x_adv.aminmax())
    keys, draws = stamp.judging(facts.index), stamp.draws  # of a random classifier
    logits, clean, rounded = (
        predict(classifier, images, keys=keys, draws=draws)
        for images in (x_adv, x, x_adv.mul(255).round().div(255))
    )
    heard, coarsely = classes(logits).numpy(), classes(rounded).numpy()
    again = replace(facts, label=label.numpy(), clean=classes(clean).numpy(), adversarial=heard)
    standing, coarse = again.outcome(), replace(again, adversarial=coarsely).outcome()
    what = "robust accuracy" if facts.target is None else "led to the target"
    name = f"{stamp.metric}, {case}"
    if stamp.scored_on != found:
        text = f"{name}: transfer: {what} {standing} on images scored on other weights"
        text = f"{text} ({stamp.scored_on}, these are {found})"
        return Line(name, text, agrees=True, compared=False)
    wrong = _differing(logits, facts.adversarial) + _differing(clean, facts.clean)
    distance = DISTANCES[stamp.norm](x_adv, x).numpy()
    outside = int((distance > stamp.eps + SLACK).sum())
    moved = int((np.abs(distance - facts.distance) > SLACK).sum())
    faults = [
        f"{count} {what}"
        for count, what in (
            (int((label.numpy() != facts.label).sum()), "labels differ"),
            (wrong, "predictions differ"),
            (outside, f"images lie outside the ball of radius {stamp.eps:g}"),
            (moved, "distances differ"),
            (int(not (low >= 0 and high <= 1)), "set of images leaves [0, 1]"),
        )
        if count
    ]
    text = f"{name}: {stamp.access}: {what} {standing}, at 8 bits {coarse.value:.1%}"
    recorded = facts.outcome().value
    if stamp.eps == math.inf:
        distance = border([facts])
        recorded = float(np.isfinite(distance).mean()) if len(distance) else 0.0
        what = "not fooled" if facts.target is None else what
        text = f"{name}: {stamp.access}: {what} {standing}, at 8 bits {coarse.value:.1%}"
    if stated is not None and abs(stated - recorded) > SLACK:
        faults.append(f"results.json says {stated:.1%}, its evidence {recorded:.1%}")
    return Line(name, "; ".join([text, *faults]), agrees=not faults)


def _differing(logits: Tensor, recorded: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    """Predictions that differ from the record by more than a tie between two classes."""
    found = torch.from_numpy(recorded)
    best = logits.max(dim=1).values
    of_recorded = logits.gather(1, found.clamp(min=0)[:, None]).squeeze(1)
    silent = classes(logits) < 0
    return int((silent != (found < 0)).sum() + (~silent & (best - of_recorded > TIE)).sum())
