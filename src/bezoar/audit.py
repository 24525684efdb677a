"""Which measurements a model gets, and what they add up to."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bezoar import classifier as classifiers
from bezoar.attacks import FGSM, PGD, Attack, Square, UniformNoise
from bezoar.attacks.oracle import ROUNDING
from bezoar.data.imageset import ImageSet
from bezoar.detection import Detection
from bezoar.referee import Measurement, metric_of
from bezoar.results import Facts, Median, Rate, border, standing, success_by_queries, worst_name
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


def rows(
    case: str,
    measurements: Sequence[Measurement],
    *,
    eps: float | None = None,
    norm: str = "linf",
    radii: Iterable[float] = (),
) -> list[Row]:
    """Rows of the result table: clean, worst case, every attack, distances, losses.

    An attack without a radius gives no rate of its own but distances: ``median:NORM`` of the
    nearest fooling images that any of them found, ``median:NAME`` for each where there are
    several, and ``found:NAME``, how many of the images that were right it fooled at all. With half
    of them or more not found the median is not known, and its row is missing.

    One that sees scores only gives ``successQUERIES:NAME``: how many of the images that were right
    it fooled within 10, 100, ... queries.

    Args:
        case: name of the case.
        measurements: on the same images, or on the first of them.
        eps: radius of the row ``robust@EPS``, the worst case over all attacks, image by image;
            and of a row ``NAME@EPS`` for each attack without a radius. The other points of the
            curve, see ``curve``, come after it.
        norm: their norm.
        radii: further points of the curve, where there is an attack without a radius.
    """
    most = max(measurements, key=lambda m: len(m.facts))
    seed, facts = most.stamp.seed, most.facts
    first = [rate_row(case, seed, "clean", facts.clean_accuracy)]
    if eps is not None:
        points = {eps: worst_case(measurements, eps, norm), **curve(measurements, norm, radii)}
        what = "targeted" if _own(measurements, norm)[0].stamp.target else "robust"
        named = {worst_name(norm, radius, what): rate for radius, rate in points.items()}
        first += [rate_row(case, seed, name, rate) for name, rate in named.items()]
    held = [m for m in measurements if m.stamp.eps != math.inf]
    free = [m for m in measurements if m.stamp.eps == math.inf]
    rates = {m.stamp.metric: m.facts.outcome() for m in held}
    if eps is not None:
        for m in free:
            if m.stamp.norm == norm:  # one that was held to the ball comes first
                rates.setdefault(f"{m.stamp.metric}@{eps:g}", m.facts.outcome(eps))
    losses = {"loss": facts.mean_clean_loss}
    losses |= {f"loss:{m.stamp.metric}": m.facts.mean_loss for m in held}
    spent = sum(int((m.facts.forward + m.facts.backward).sum()) for m in measurements)
    return [
        *first,
        *(rate_row(case, seed, name, rate) for name, rate in rates.items()),
        *distances(case, seed, free),
        *(row for m in held for row in _by_queries(case, m)),
        *(number_row(case, seed, name, loss) for name, loss in losses.items()),
        number_row(case, seed, "passes:measuring", float(spent)),
    ]


def distances(case: str, seed: int, free: Sequence[Measurement]) -> list[Row]:
    """Rows about the attacks without a radius: shares first, then distances."""
    found: dict[str, NDArray[np.float64]] = {}
    groups: dict[str, list[Facts]] = {}
    for m in free:
        found[m.stamp.metric] = border([m.facts])
        groups.setdefault(m.stamp.norm, []).append(m.facts)
    table = []
    for name, distance in found.items():
        if len(distance):
            share = Rate(int(np.isfinite(distance).sum()), len(distance))
            table.append(rate_row(case, seed, f"found:{name}", share))
    several = any(len(group) > 1 for group in groups.values())
    medians = {norm: border(group) for norm, group in groups.items()} | (found if several else {})
    for name, distance in medians.items():
        if len(distance) and (middle := Median.of(distance)).value < math.inf:
            table.append(median_row(case, seed, f"median:{name}", middle))
    return table


def _by_queries(case: str, m: Measurement) -> list[Row]:
    """Rows about an attack that sees scores only; none of any other."""
    if m.stamp.steps <= 1 or m.facts.backward.any() or not m.facts.open.any():
        return []
    budgets = [10**k for k in range(1, 10) if 10**k < m.facts.forward.max()]
    rates = zip(budgets, success_by_queries(m.facts, budgets), strict=True)
    return [
        rate_row(case, m.stamp.seed, f"success{budget}:{m.stamp.metric}", rate)
        for budget, rate in rates
    ]


def median_row(case: str, seed: int, metric: str, middle: Median) -> Row:
    """A median with its count, and its interval unless that has no upper end."""
    row = {**number_row(case, seed, metric, middle.value), "n": middle.total}
    return row if middle.high == math.inf else {**row, "low": middle.low, "high": middle.high}


def rate_row(case: str, seed: int, metric: str, rate: Rate) -> Row:
    """A rate with its interval and count."""
    return estimate_row(case, seed, metric, rate.value, rate.interval, rate.total)


def estimate_row(
    case: str, seed: int, metric: str, value: float, interval: tuple[float, float], n: int
) -> Row:
    """An estimate with its interval and the count that it rests on."""
    low, high = interval
    return {**number_row(case, seed, metric, value), "low": low, "high": high, "n": n}


def number_row(case: str, seed: int, metric: str, value: float) -> Row:
    """A number that is no rate: a loss, a cost."""
    return {"case": case, "seed": seed, "metric": metric, "value": value}


def detected(found: Detection, attack: Attack, model: nn.Module, *, seed: int) -> list[Row]:
    """The rows of a result table about a detector and an attack.

    ``false-alarms``: share of the clean images that are rejected. For an attacker who knows the
    detector, and as ``greybox:`` for one who ignores it: ``standing``, share of the images that are
    named rightly or rejected; ``caught``, share of the wrongly named ones that are rejected;
    ``auc``, how well the score tells these from clean ones.
    """
    case, metric = getattr(model, "kind", "user"), metric_of(attack)
    table = [
        rate_row(case, seed, "clean", found.clean.right),
        rate_row(case, seed, "false-alarms", found.clean.alarms),
    ]
    for prefix, judged in (("greybox:", found.unaware), ("", found.knowing)):
        table.append(rate_row(case, seed, f"{prefix}standing:{metric}", judged.standing))
        if judged.caught is not None:
            table.append(rate_row(case, seed, f"{prefix}caught:{metric}", judged.caught))
        if (curve := found.curve(judged)) is not None:
            name, ends = f"{prefix}auc:{metric}", (curve.low, curve.high)
            table.append(estimate_row(case, seed, name, curve.auc, ends, curve.attacked))
    return table


def worst_case(measurements: Sequence[Measurement], eps: float, norm: str = "linf") -> Rate:
    """Share of images that stand under every white-box attack at ``eps``, image by image.

    Attacks of smaller radii and without a radius count as well, see ``results.standing``. Where
    all attacks have a target it is the share that one of them led to it; beside others those that
    have one do not count, for they leave all further classes out.

    Raises:
        ValueError: no attack of the norm has this radius or none, or they share no image.
    """
    own = _own(measurements, norm)
    _, stands = standing([(m.facts, m.stamp.eps) for m in own], eps)
    if own[0].facts.target is not None:
        stands = ~stands
    return Rate(int(stands.sum()), len(stands))


def curve(
    measurements: Sequence[Measurement], norm: str = "linf", radii: Iterable[float] = ()
) -> dict[float, Rate]:
    """Worst-case accuracy by radius, increasing: it can only fall.

    Its points are the radii that were attacked, noise alone not counted, and ``radii`` too where
    there is an attack without a radius. An image that is fooled stays fooled from there on.
    """
    own = _own(measurements, norm)
    points = {m.stamp.eps for m in own if m.stamp.steps}
    if math.inf in points:
        points |= set(radii)
    return {eps: worst_case(own, eps, norm) for eps in sorted(points - {math.inf})}


def _own(measurements: Sequence[Measurement], norm: str) -> list[Measurement]:
    """The white-box measurements in a norm: those without a target, if there are any."""
    own = [m for m in measurements if (m.stamp.norm, m.stamp.access) == (norm, "white-box")]
    return [m for m in own if m.facts.target is None] or own


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


def sandwich(
    measurement: Measurement, certified: NDArray[np.floating[Any]], norm: str
) -> NDArray[np.int64]:
    """Images whose certificate an attack contradicts, by position; an honest one leaves none.

    A certificate says that no image within its radius is taken for another class, so of each image
    certified <= attacked <= clean: a wrong clean image has the radius 0, and what fools lies no
    nearer than the radius. Where it does, certificate, attack or measurement is at fault.

    Args:
        measurement: an attack on the weights that were certified.
        certified: radius of each of its images, ``(N,)``, in pixel units; 0 for no certificate.
        norm: norm of the certificate.

    Raises:
        ValueError: another norm than that of the attack, another number of images, or a radius
            that is none.
    """
    if norm != measurement.stamp.norm:
        raise ValueError(f"norm={norm!r}: expected {measurement.stamp.norm!r}, that of the attack")
    if certified.shape != (len(measurement.facts),):
        found = f"certified of shape {certified.shape}"
        raise ValueError(f"{found}: expected ({len(measurement.facts)},), a radius an image")
    if not (certified >= 0).all():  # also true for NaN
        raise ValueError("certified: expected radii of at least 0")
    # Whoever is led to a target is fooled, and so is he who ends in a third class.
    reach = replace(measurement.facts, target=None).reach()
    return measurement.facts.index[reach + ROUNDING < certified]


def healthy(
    measurements: Sequence[Measurement], eps: float, floor: float = HEALTHY, norm: str = "linf"
) -> Verdict:
    """Whether enough images stand under the worst of all attacks at ``eps``."""
    where = f"eps {eps:g}" if norm == "linf" else f"{norm} eps {eps:g}"
    rate = worst_case(measurements, eps, norm)
    if _own(measurements, norm)[0].stamp.target:
        stands = Rate(rate.total - rate.count, rate.total)
        return at_least(f"images not led to their target at {where}", stands, floor)
    return at_least(f"worst-case robust accuracy at {where}", rate, floor)


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
