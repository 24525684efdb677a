"""What a repair does to a planted backdoor: before, the repair, after, in a run folder.

A defender has ``evidence`` alone. Who measures also has what the attacker knows.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bezoar import audit
from bezoar.backdoors import Estimate, Facts, Triggered, der, fall, measure, triggered
from bezoar.channels import layers
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.defence import Evidence, few
from bezoar.experiments import OnUnit, cured, quiet
from bezoar.files import read_json, write_json
from bezoar.fit import Progress, silent
from bezoar.planted import Backdoor
from bezoar.repairs import Repair
from bezoar.repairs.pruning import Filter
from bezoar.report import export
from bezoar.runs import Run
from bezoar.runs.folder import write_arrays
from bezoar.triggers import poison

PICTURES = 9  # images that are kept to be shown, with and without the trigger
PATH = 256  # test images of each kind that a pruned network is shown after each filter: one pass


def poisoned(data: DataSet, secret: Backdoor) -> ImageSet | None:
    """The training images that a victim saw; ``None`` where they were stamped in the loop.

    Args:
        data: the clean set that was poisoned.
        secret: what the attacker knows.
    """
    if not len(secret.rows):
        return None
    rate, own = secret.about["rate"], secret.about["seed"]
    return poison(data.train, secret.trigger, secret.aim, rate=rate, seed=own).images


def evidence(
    data: DataSet, secret: Backdoor, suspects: ImageSet | None, per_class: int, *, seed: int
) -> Evidence:
    """What a defender has, and for those who ask what a study adds: trigger and poisoned set.

    Args:
        data: the clean set that was poisoned; the defender's images are of its train split.
        secret: what the attacker knows.
        suspects: what ``poisoned`` gave.
        per_class: images of each class that the defender has, see ``few``; 0 is both whole splits.
        seed: names which ones.

    Raises:
        ValueError: a class with too few images.
    """
    given = Evidence(data.train, data.validation)
    if per_class:
        given = few(data.train, per_class, seed=seed)
    return Evidence(given.train, given.validation, secret.trigger.stamp, suspects)


def rows(
    case: str,
    seed: int,
    facts: Facts,
    *,
    before: Facts | None = None,
    cost: Mapping[str, float] | None = None,
) -> list[audit.Row]:
    """Rows of the result table: ``clean``, ``asr``, ``ra``; of a repair more.

    ``der`` as ``backdoors.der`` has it, ``drop`` the clean accuracy that was lost, both with their
    intervals, ``seconds`` and ``passes`` what the repair took.
    """
    rates = {"clean": facts.accuracy, "asr": facts.asr, "ra": facts.ra}
    found = [audit.rate_row(case, seed, name, rate) for name, rate in rates.items()]
    if before is not None:
        lost = fall(before.accuracy, facts.accuracy)
        n = {"der": len(facts.wanted), "drop": len(facts.label)}
        for name, value in {"der": der(before, facts), "drop": lost}.items():
            found.append(_estimated(case, seed, name, value, n[name]))
    if cost is not None:
        spent = {"seconds": cost["seconds"], "passes": cost["forward"] + cost["backward"]}
        found += [audit.number_row(case, seed, name, float(v)) for name, v in spent.items()]
    return found


def cure(
    run: Run,
    model: nn.Module,
    data: DataSet,
    method: Repair,
    given: Evidence,
    secret: Backdoor,
    images: ImageSet,
    *,
    seed: int,
    on_step: Callable[[Progress], None] = silent,
    on_unit: OnUnit = quiet,
) -> dict[str, Any]:
    """Measure a backdoored model, repair it, measure it again; goes on where it was interrupted.

    Args:
        run: the run folder.
        model: images to logits; not changed.
        data: the classes and the shape of the images.
        method: the repair.
        given: what the repair may see.
        secret: what the attacker knows, for measuring.
        images: clean test images; those of other classes are stamped.
        seed: names all randomness.
        on_step: told how far the repair is.
        on_unit: told how far the path of a pruning is measured.

    Returns:
        The content of ``results.json``: cases ``before`` and ``after``.
    """
    shown = triggered(images, secret.trigger, secret.aim)
    before = measure(model, images, shown, seed=seed)
    repaired = cured(run, model, data, method, given, seed=seed, on_step=on_step)
    after = measure(repaired, images, shown, seed=seed)
    cost = read_json(run.path / "repair.json")["cost"]
    table = [*rows("before", seed, before), *rows("after", seed, after, before=before, cost=cost)]
    results = audit.results(run.notes, table, {})
    write_json(run.path / "results.json", results)
    _keep_answers(run, images, shown, before, after)
    _keep_path(run, model, repaired, images, shown, seed=seed, on_unit=on_unit)
    export.write(run.path)
    return results


def _keep_answers(
    run: Run, images: ImageSet, shown: Triggered, before: Facts, after: Facts
) -> None:
    """Keep what was said of every test image, and some of the images, with and without trigger."""
    rows = np.searchsorted(images.index, before.index)
    chosen = _pictured(before, rows)
    x, stamped = images.pixels.numpy()[rows[chosen]], shown.images.pixels.numpy()[chosen]
    columns: dict[str, Any] = {
        "index": images.index,
        "label": before.label,
        "clean_before": before.clean,
        "clean_after": after.clean,
        "stamped_index": before.index,
        "wanted": before.wanted,
        "stamped_before": before.stamped,
        "stamped_after": after.stamped,
    }
    pictures = {"shown": chosen, "x": x, "x_stamped": stamped}
    write_arrays(run.path / "backdoor.safetensors", {**columns, **pictures})


def _pictured(before: Facts, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the triggered images to show: where the backdoor works, each class in turn."""
    works = (before.clean[rows] == before.true) & (before.stamped == before.wanted)
    places = np.flatnonzero(works) if works.any() else np.arange(len(rows))
    turn = np.zeros(len(places), dtype=np.int64)
    for number in np.unique(before.true[places]):
        own = before.true[places] == number
        turn[own] = np.arange(own.sum())
    chosen: NDArray[np.int64] = np.sort(places[np.argsort(turn, kind="stable")[:PICTURES]])
    return chosen


def _keep_path(
    run: Run,
    model: nn.Module,
    repaired: nn.Module,
    images: ImageSet,
    shown: Triggered,
    *,
    seed: int,
    on_unit: OnUnit,
) -> None:
    """Measure what each filter that went did by itself, once; the repair's log has no test image.

    Counts, not rates: of the model that came in, after each filter, and of the repaired model.
    """
    path, log = run.path / "path.json", read_json(run.path / "repair.json")["rows"]
    gone = [Filter(int(row["layer"]), int(row["filter"])) for row in log if _went(row)]
    if path.exists() or not gone:
        return
    clean, rows = images.take(_spread(len(images))), _spread(len(shown.images))
    some = Triggered(shown.images.take(rows), shown.wanted[torch.from_numpy(rows)])
    probe, _ = images.batch(slice(1))
    pruned, snapshot = deepcopy(model).eval(), run.snapshot("path", {"gone": gone})
    convolutions = layers(pruned, probe)
    points: list[list[int]] = (snapshot.load() or {"points": []})["points"]
    for k in range(len(gone) + 1):
        if k:
            convolutions[gone[k - 1].layer].silence([gone[k - 1].number])
        if k == len(points):
            points.append(_point(pruned, clean, some, seed))
            snapshot.save({"points": points})
        on_unit("filters silenced", k, len(gone))
    points.append(_point(repaired, clean, some, seed))
    went = [
        {
            "layer": layer,
            "name": convolutions[layer].name,
            "filter": number,
            "channels": convolutions[layer].channels,
        }
        for layer, number in gone
    ]
    counts = {"clean": [point[0] for point in points], "asr": [point[1] for point in points]}
    sizes = {"images": len(clean), "triggered": len(some.images)}
    write_json(path, {"format": 1, **sizes, "gone": went, **counts})
    snapshot.clear()


def _went(row: Mapping[str, float]) -> bool:
    """Whether a round of a log is that of one filter that was pruned for good."""
    return {"layer", "filter"} <= set(row) and row["filter"] >= 0


def _spread(count: int) -> NDArray[np.int64]:
    """Places of at most ``PATH`` images, evenly over all: a file may be sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, PATH)).round().astype(np.int64))


def _point(model: nn.Module, clean: ImageSet, some: Triggered, seed: int) -> list[int]:
    facts = measure(model, clean, some, seed=seed)
    return [facts.accuracy.count, facts.asr.count]


def _estimated(case: str, seed: int, metric: str, found: Estimate, n: int) -> audit.Row:
    return audit.estimate_row(case, seed, metric, found.value, (found.low, found.high), n)
