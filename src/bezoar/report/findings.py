"""What a record says in answer to the report's questions: derived from facts, nothing drawn."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bezoar.report.paired import Paired
from bezoar.report.record import CASES, Measured, Record
from bezoar.report.tables import Cell, Table, radius, rate
from bezoar.results import Rate, standing, worst_name

Indices = NDArray[np.int64]

MEANINGS = {
    "uniform-output": (
        "The loss is near ln K, that of a network which gives all K classes the same probability: "
        "probably an untrained or wrongly loaded one. A trained network that is fooled is "
        "confidently wrong, and its loss is far larger."
    ),
    "masked-gradients": (
        "One step and many steps disagree by more than an ordinary loss explains: one step fools "
        "more images than many, or it leaves over 20 points more than many do and no measurement "
        "with many steps at half the radius shows that the one long step merely overshot. The "
        "loss around an image is not what its gradient says, typically after training against "
        "one-step attacks. Believe the lowest number, attack with more steps and restarts, and "
        "repair with a many-step attack inside."
    ),
    "not-falling-with-eps": (
        "A larger ball holds the smaller one, so accuracy cannot rise with eps. It did: the attack "
        "misses what is there."
    ),
    "above-clean": (
        "An attacker may leave an image alone, so accuracy under attack cannot be above clean "
        "accuracy. Labels or images are mixed up, or the attack works backwards."
    ),
    "transfer-set": (
        "The images were made on other weights than those that were scored. This says nothing "
        "about an attacker who knows this model."
    ),
    "survives-eps-1": (
        "With eps = 1, or without a radius, an attacker may replace the whole image. Accuracy that "
        "survives this comes from an attack that does not work."
    ),
    "noise-stronger": (
        "Random noise did more harm than following the gradient: the attack is not a serious one."
    ),
    "zero-gradients": (
        "The gradient is exactly zero on many images, so the attack had no direction to go. Their "
        "accuracy is not robustness. Declare a surrogate gradient for the step that has none."
    ),
    "random-outputs": (
        "The model answers the same image differently each time, by noise that it does not "
        "declare. The attacks averaged over it, but nobody can repeat the numbers."
    ),
    "probabilities": (
        "The model gives probabilities where logits are expected. A second softmax on top flattens "
        "the loss, so that attacks and losses mean something else. Leave out the last softmax."
    ),
    "neighbours": (
        "An image's answer depends on the other images of its batch. Accuracy then depends on the "
        "batch size, and the model was attacked without dropping fooled images."
    ),
    "not-finite": (
        "The classifier gives NaN or infinity for some images. They count as wrong; what is "
        "measured on the others holds."
    ),
    "numbers-disagree": (
        "A number in results.json is not what the images kept in this folder give. Believe the "
        "images, and ask who wrote the number."
    ),
    "not-white-box": (
        "The stamp says white-box, but names two different models. The number is left out of the "
        "answers at the top."
    ),
    "oracle": (
        "A study may give a repair the true trigger; a defender has not got it. Do not put these "
        "numbers beside those of a repair that has clean images only."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A warning of a case: its kind, the numbers that raised it, and what it means."""

    case: str
    kind: str
    text: str

    @property
    def meaning(self) -> str:
        """What a reader should make of it; empty for a kind that is not known here."""
        return MEANINGS.get(self.kind, "")


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The answer to "how well does it stand an attack": the worst case of attacks of one ball.

    An image counts as right only if it is right clean and under every one of ``metrics``.

    Attributes:
        metrics: the attacks, all white-box, that were made on every case there is: of this
            radius, of a smaller one, or of none.
        norm, eps: the ball.
        before, after: worst-case accuracy; ``None`` where that case was not measured.
        change: the same, paired image by image, where both were.
    """

    metrics: tuple[str, ...]
    norm: str
    eps: float
    before: Rate | None
    after: Rate | None
    change: Paired | None

    @property
    def name(self) -> str:
        """The attack, or ``robust@eps`` of several."""
        return self.metrics[0] if len(self.metrics) == 1 else worst_name(self.norm, self.eps)


def headline(record: Record) -> Headline | None:
    """Choose the ball that the first screen speaks of, and take the worst case in it.

    It is the ball of the table's first row ``robust@eps``; without one the ball with most attacks,
    by size the middle one of those. ``None`` if no attack was made white-box on every case.
    """
    cases = {case: _white_box(record.of(case)) for case in CASES if record.of(case)}
    if not cases:
        return None
    first = next(iter(cases.values()))
    common = sorted(set.intersection(*(set(found) for found in cases.values())))
    ball = _ball(record, [first[metric] for metric in common])
    if ball is None:
        return None
    norm, eps = ball
    metrics = tuple(
        metric
        for metric in common
        if first[metric].ball[0] == norm and (first[metric].free or first[metric].ball[1] <= eps)
    )
    stands = {
        case: standing([(found[m].facts, first[m].ball[1]) for m in metrics], eps)
        for case, found in cases.items()
    }
    index = np.array(sorted(set.intersection(*(set(at.tolist()) for at, _ in stands.values()))))
    if not index.size:
        return None
    right = {case: column[np.isin(at, index)] for case, (at, column) in stands.items()}
    rates = {case: Rate(int(column.sum()), len(column)) for case, column in right.items()}
    return Headline(
        metrics=metrics,
        norm=norm,
        eps=eps,
        before=rates.get("before"),
        after=rates.get("after"),
        change=Paired.of(right["before"], right["after"]) if len(right) == len(CASES) else None,
    )


def _ball(record: Record, measured: Sequence[Measured]) -> tuple[str, float] | None:
    """The norm and radius that the first screen speaks of; see ``headline``."""
    attacks = Counter(found.ball for found in measured if not found.noise)
    held = {ball: count for ball, count in attacks.items() if ball[1] < math.inf}
    for row in record.rows:
        asked = [ball for ball in held if worst_name(*ball) == row["metric"]]
        if (eps := radius(row["metric"])) is not None:  # without radii the name alone has it
            asked += [(norm, eps) for norm, at in attacks if at == math.inf]
        for ball in asked:
            if worst_name(*ball) == row["metric"]:
                return ball
    most = max(held.values(), default=0)
    tied = sorted((ball for ball in held if held[ball] == most), key=lambda b: (b[1], b[0]))
    return tied[(len(tied) - 1) // 2] if tied else None


def change(record: Record, metric: str) -> Paired | None:
    """Before against after under one metric, on the images that both cases have.

    For ``clean`` the clean predictions of any measurement serve, the one with most images.
    """
    before, after = record.of("before"), record.of("after")
    if metric == "clean":
        largest = [max(found.values(), key=_size, default=None) for found in (before, after)]
    else:
        largest = [before.get(metric), after.get(metric)]
    pair = [found for found in largest if found is not None]
    if len(pair) < 2:
        return None
    index = shared_index(pair)
    if not index.size:
        return None
    column = _clean if metric == "clean" else _robust
    return Paired.of(*(column(found)[np.isin(found.facts.index, index)] for found in pair))


def shared_index(measured: Sequence[Measured]) -> Indices:
    """Positions of the images that all of the measurements have, increasing."""
    index = measured[0].facts.index
    for other in measured[1:]:
        index = np.intersect1d(index, other.facts.index, assume_unique=True)
    return index


def fooled(measured: Measured, eps: float, count: int) -> list[int]:
    """Lowest positions of images that were right clean and fooled at ``eps``, at most ``count``."""
    rows = _clean(measured) & (measured.facts.reach(measured.ball[1]) <= eps)
    return [int(index) for index in measured.facts.index[rows][:count]]


def strongest(record: Record, found: Headline) -> str:
    """Of the headline's attacks the one that fooled most, on the first case there is."""
    case = next(record.of(case) for case in CASES if record.of(case))
    attacks = [metric for metric in found.metrics if not case[metric].noise]

    def left(metric: str) -> int:
        return int((case[metric].facts.reach(case[metric].ball[1]) > found.eps).sum())

    return min(attacks, key=left)


def suspicions(record: Record, table: Table, found: Headline | None) -> list[Suspicion]:
    """The warnings of the run, and those of reading it: numbers and stamps that do not agree."""
    said = record.results.get("warnings", [])
    told = [
        Suspicion(**{name: str(warning.get(name, "")) for name in ("case", "kind", "text")})
        for warning in (said if isinstance(said, list) else [])
        if isinstance(warning, dict)
    ]
    counted = [(one.case, one.metric, one.facts.outcome()) for one in record.measured]
    if found and len(found.metrics) > 1:
        worst = (("before", found.before), ("after", found.after))
        counted += [(case, found.name, value) for case, value in worst if value]
    for case, metric, value in counted:
        cell = table.cell(case, metric)
        if cell and cell.seeds == 1 and not math.isclose(cell.value, value.value, abs_tol=1e-6):
            text = f"{metric}: results.json has {cell.value:.6g}, the images give {value}"
            told.append(Suspicion(case=case, kind="numbers-disagree", text=text))
    for one in record.measured:
        if one.stamp.get("access") == "white-box" and not one.white_box:
            text = f"{one.metric}: made on and scored on differ"
            told.append(Suspicion(case=one.case, kind="not-white-box", text=text))
    return told


def curves(table: Table, cases: Sequence[str]) -> dict[str, dict[str, list[tuple[float, Cell]]]]:
    """Points of accuracy against eps: by attack, then by case, the clean accuracy at eps 0."""
    found: dict[str, dict[str, list[tuple[float, Cell]]]] = {}
    for metric in table.metrics:
        eps, name = radius(metric), metric.partition("@")[0]
        if eps is None or ":" in name or name.startswith("targeted") or not rate(metric):
            continue  # the share that reached a target is no accuracy
        for case in cases:
            if cell := table.cell(case, metric):
                clean = table.cell(case, "clean")
                start = [(0.0, clean)] if clean else []
                found.setdefault(name, {}).setdefault(case, start).append((eps, cell))
    return {
        name: {case: sorted(p, key=_eps) for case, p in of.items()} for name, of in found.items()
    }


def _eps(point: tuple[float, Cell]) -> float:
    return point[0]


def _white_box(measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """Those that the first screen rests on: on these very weights, to any wrong class."""
    return {m: found for m, found in measured.items() if found.white_box and not found.targeted}


def _robust(measured: Measured) -> NDArray[np.bool_]:
    return measured.facts.robust


def _clean(measured: Measured) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = measured.facts.clean == measured.facts.label
    return right


def _size(measured: Measured) -> int:
    return len(measured.facts)
