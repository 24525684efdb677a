"""The first screen: is the model sick, what was done, is it well now."""

from collections.abc import Sequence
from dataclasses import dataclass

from bezoar.report import tables
from bezoar.report.findings import Headline, Suspicion
from bezoar.report.paired import Paired
from bezoar.report.record import Record
from bezoar.report.tables import Cell, Table

# A requirement of health, as an answer to "is it well?"; "is it sick?" has the opposite one.
_ANSWERS = {"met": ("Yes", "good"), "not met": ("No", "bad"), "undecided": ("Undecided", "open")}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One of the three questions of the first screen and its answer.

    Attributes:
        tone: ``bad``, ``good`` or ``open``; the answer says the same in words.
        gauges: a label and the rate that it stands for.
        lines: short statements.
        warnings: how many suspicions there are about the numbers in the card.
    """

    question: str
    answer: str
    tone: str
    gauges: tuple[tuple[str, Cell], ...] = ()
    lines: tuple[str, ...] = ()
    warnings: int = 0


def cards(
    record: Record, table: Table, found: Headline | None, suspicions: Sequence[Suspicion]
) -> list[Card]:
    """The three questions in their order, answered from what was measured and kept."""
    repaired = record.repair is not None
    first = [
        _state(record, table, found, suspicions, "before", "Is the model sick?", "sick"),
        treatment(record) if repaired else _no_treatment("after" in table.cases),
    ]
    if "after" in table.cases:
        question = "Is it well now?"
        return [*first, _state(record, table, found, suspicions, "after", question, "well")]
    line = "It was not measured again." if repaired else "Nothing was changed, so nothing is new."
    return [*first, Card(question="Is it well now?", answer="Open", tone="open", lines=(line,))]


def _state(
    record: Record,
    table: Table,
    found: Headline | None,
    suspicions: Sequence[Suspicion],
    case: str,
    question: str,
    verdict: str,
) -> Card:
    gauges = []
    if clean := table.cell(case, "clean"):
        gauges.append(("Right on clean images", clean))
    counted = getattr(found, case) if found else None
    lines = []
    if found and counted:
        several = len(found.metrics) > 1
        under = (
            f"Right in the worst case, eps {found.eps:.4g}"
            if several
            else f"Right under {found.name}"
        )
        gauges.append((under, Cell.of(counted, found.name)))
        if several:
            names = ", ".join(found.metrics)
            lines.append(f"The worst case of {names}, image by image.")
        if case == "after" and found.change:
            lines.append(_paired(found.change))
    else:
        kind = "without a target " if any(one.targeted for one in record.measured) else ""
        lines.append(f"No white-box attack {kind}on it is kept in this folder.")
    judged = record.results.get("verdict")
    judged = judged.get(verdict) if isinstance(judged, dict) else None
    outcome = str(judged.get("outcome", "")) if isinstance(judged, dict) else ""
    if isinstance(judged, dict) and outcome in _ANSWERS:
        lines.insert(0, f"Requirement {outcome}: {judged.get('text', '')}")
    answer, tone = _ANSWERS.get(outcome, ("Read the numbers", "open"))
    if verdict == "sick":
        answer = {"Yes": "No", "No": "Yes"}.get(answer, answer)
    return Card(
        question=question,
        answer=answer,
        tone=tone,
        gauges=tuple(gauges),
        lines=tuple(lines),
        warnings=sum(suspicion.case == case for suspicion in suspicions),
    )


def treatment(record: Record) -> Card:
    """What was done, in the words of the repair, and what it cost."""
    repair = record.repair or {}
    rounds = repair["rows"]
    name = str(repair.get("name") or "A repair")
    lines = [str(repair["about"])] if repair.get("about") else []
    if repair.get("attack"):
        lines.append(f"Trained against {repair['attack']}.")
    count = sum(row["round"] > 0 for row in rounds)
    lines.append(f"{count} {'round' if count == 1 else 'rounds'}.")
    for done in ("added", "removed"):
        if total := sum(row.get(done, 0) for row in rounds):
            lines.append(f"{tables.shown(total, done)} images {done}.")
    cost = repair.get("cost", {})
    if {"forward", "backward"} <= set(cost):
        passes = tables.shown(cost["forward"] + cost["backward"], "passes")
        seconds = f" in {tables.shown(cost['seconds'], 'seconds')} s" if "seconds" in cost else ""
        lines.append(f"It cost {passes} passes{seconds}.")
    return Card(question="What was done?", answer=name, tone="open", lines=tuple(lines))


def _no_treatment(again: bool) -> Card:
    line = "The model was attacked, and left as it is."
    if again:
        line = "Two models were measured; how the second came about is not recorded here."
    return Card(question="What was done?", answer="No repair", tone="open", lines=(line,))


def _paired(change: Paired) -> str:
    low, high = change.interval
    span = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    counts = f"{change.healed:,} images healed, {change.harmed:,} harmed"
    return f"{100 * change.change:+.1f} points {span}: {counts}."
