"""Which measurements a model gets, and what they add up to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bezoar import classifier as classifiers
from bezoar.attacks import FGSM, PGD, Attack, Square, UniformNoise
from bezoar.data.imageset import ImageSet
from bezoar.referee import Measurement
from bezoar.results import Rate
from bezoar.sanity import Warning, warnings
from bezoar.verdicts import Verdict, at_least

Row = dict[str, Any]

HEALTHY = 0.90  # robust accuracy that arXiv:2511.01377 repairs to


def evasion(
    eps: float, curve: Iterable[float], *, steps: int = 40, restarts: int = 5, queries: int = 200
) -> list[Attack]:
    """The attacks that a model gets: what an attacker may do at ``eps``, and around it.

    One step and many steps at every radius of the curve and at half of ``eps`` (where a network
    that is only fitted to one step falls too), noise as the control, and many steps without any
    limit, which no honest classifier survives. At ``eps`` also those that see what masks a
    gradient: many steps along the margin, which a saturated softmax does not flatten, and a search
    by scores, which needs no gradient. They cost an image that withstands all 282 passes, beside
    750 of the rest with four radii.

    Args:
        eps: the radius that the verdict is about, in pixel units of [0, 1].
        curve: further radii of the curve of accuracy against eps.
        steps: steps of the many-step attack.
        restarts: its restarts at ``eps``; elsewhere it has one.
        queries: of the search by scores.
    """
    radii = sorted({eps, eps / 2, *curve})
    attacks: list[Attack] = [FGSM(eps=radius) for radius in radii]
    attacks += [
        PGD(eps=radius, steps=steps, restarts=restarts if radius == eps else 1)
        for radius in sorted({*radii, 1.0})
    ]
    attacks += [PGD(eps=eps, steps=steps, loss="margin"), Square(eps=eps, steps=queries)]
    return [*attacks, UniformNoise(eps=eps, restarts=10)]


def rows(case: str, measurements: Sequence[Measurement], *, eps: float | None = None) -> list[Row]:
    """Rows of the result table: clean, every attack, the worst case at ``eps``, losses.

    Args:
        case: name of the case.
        measurements: on the same images, or on the first of them.
        eps: radius of the row ``robust@EPS``, the worst case over all attacks of that radius,
            image by image.
    """
    found = [
        rate_row(case, m.stamp.seed, m.stamp.metric, m.facts.robust_accuracy) for m in measurements
    ]
    most = max(measurements, key=lambda m: len(m.facts))
    seed, facts = most.stamp.seed, most.facts
    first = [rate_row(case, seed, "clean", facts.clean_accuracy)]
    if eps is not None:
        name = f"robust@{eps:g}"
        first.append(rate_row(case, seed, name, worst_case(measurements, eps)))
    losses = {"loss": facts.clean_loss}
    losses |= {f"loss:{m.stamp.metric}": m.facts.loss for m in measurements}
    spent = sum(int((m.facts.forward + m.facts.backward).sum()) for m in measurements)
    return [
        *first,
        *found,
        *(number_row(case, seed, name, float(loss.mean())) for name, loss in losses.items()),
        number_row(case, seed, "passes:measuring", float(spent)),
    ]


def rate_row(case: str, seed: int, metric: str, rate: Rate) -> Row:
    """A rate with its interval and count."""
    low, high = rate.interval
    sure = {"value": rate.value, "low": low, "high": high, "n": rate.total}
    return {"case": case, "seed": seed, "metric": metric, **sure}


def number_row(case: str, seed: int, metric: str, value: float) -> Row:
    """A number that is no rate: a loss, a cost."""
    return {"case": case, "seed": seed, "metric": metric, "value": value}


def worst_case(measurements: Sequence[Measurement], eps: float) -> Rate:
    """Share of images that stand under every white-box attack of radius ``eps`` in Linf.

    Only images that all of them attacked count.
    """
    own = [
        m.facts
        for m in measurements
        if (m.stamp.norm, m.stamp.eps, m.stamp.access) == ("linf", eps, "white-box")
    ]
    if not own:
        raise ValueError(f"eps={eps}: expected at least one Linf attack of this radius")
    shared = own[0].index
    for facts in own:
        shared = np.intersect1d(shared, facts.index)
    standing = np.ones(len(shared), dtype=bool)
    for facts in own:
        standing &= facts.robust[np.isin(facts.index, shared)]
    return Rate(int(standing.sum()), len(shared))


def suspicions(
    model: nn.Module, images: ImageSet, measurements: Sequence[Measurement]
) -> list[Warning]:
    """Everything that makes these measurements of this model suspect."""
    probe, _ = images.batch(torch.arange(min(8, len(images))))
    return warnings(
        measurements,
        classes=len(images.classes),
        random_outputs=classifiers.output_change(model, probe),
        neighbours_matter=classifiers.neighbour_change(model, probe),
        probabilities=classifiers.from_probabilities(model, probe),
    )


def healthy(measurements: Sequence[Measurement], eps: float, floor: float = HEALTHY) -> Verdict:
    """Whether enough images stand under the worst of all attacks of radius ``eps``."""
    what = f"worst-case robust accuracy at eps {eps:g}"
    return at_least(what, worst_case(measurements, eps), floor)


def results(
    notes: Mapping[str, str],
    table: Sequence[Row],
    found: Mapping[str, Sequence[Warning]],
    verdict: Mapping[str, Verdict] | None = None,
) -> dict[str, Any]:
    """The content of a results file: where from, rows, warnings by case, verdicts."""
    told = [{"case": case, **w.as_dict()} for case, each in found.items() for w in each]
    head = {"format": 1, **notes, "rows": list(table), "warnings": told}
    if verdict is None:
        return head
    return {**head, "verdict": {name: v.as_dict() for name, v in verdict.items()}}
