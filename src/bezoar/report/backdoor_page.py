"""The page of a backdoor repair, from its run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bezoar.report import figures, findings, parts, tables
from bezoar.report.backdoor_cards import cards, source
from bezoar.report.backdoor_exhibits import exhibits, found_trigger, true_trigger, worked
from bezoar.report.backdoor_record import Answers, Pruning, read
from bezoar.report.findings import Suspicion
from bezoar.report.paired import Paired
from bezoar.report.parts import Line
from bezoar.report.record import CASES, Record
from bezoar.report.record import read as read_record
from bezoar.report.tables import Cell, Table

ABOUT = {
    "clean": "all test images, without the trigger",
    "asr": "attack success rate: triggered images that are where the attacker wants",
    "ra": "robust accuracy: triggered images that are named rightly",
    "der": "defence effectiveness rating; 50 % is that of doing nothing",
    "drop": "clean accuracy that was lost",
    "passes": "forward and backward passes of the repair, in images",
    "seconds": "of the repair",
}


def render(run: Path) -> str:
    """The report of a backdoor repair: one HTML page that fetches nothing and runs nothing.

    The same folder gives the same bytes, wherever it lies.

    Raises:
        FileNotFoundError: the folder or a file that every such run has is missing.
        ValueError: a file in it is damaged, of another format, or holds impossible values.
    """
    record, cured = read_record(run), read(run)
    table = tables.wide(record.rows)
    suspicions = _suspicions(record, table, cured.answers)
    cases = [case for case in CASES if case in table.cases]
    cases += [case for case in table.cases if case not in CASES]
    page = {
        "title": str(record.about.get("title") or "Report"),
        "record": record,
        "cards": cards(record, table, cured, suspicions),
        "cases": cases,
        "called": {case: case for case in (*CASES, *cases)},
        "lines": _lines(table, cured.answers, cases),
        "suspicions": suspicions,
        "shown": exhibits(record, cured.answers),
        "worked": bool(worked(cured.answers).any()),
        "planted": true_trigger(cured.answers),
        "found": found_trigger(cured),
        "pruning": _pruning(cured.path) if cured.path else None,
        "progress": parts.progress(record),
        "cost": parts.cost(record),
        "provenance": parts.provenance(record),
        "digest": parts.digest(run),
    }
    return parts.environment().get_template("backdoor.html.j2").render(page)


def _suspicions(record: Record, table: Table, answers: Answers) -> list[Suspicion]:
    told = findings.suspicions(record, table, None)
    for case in CASES:
        for metric, counted in answers.rates(case).items():
            cell = table.cell(case, metric)
            if cell and cell.seeds == 1 and abs(cell.value - counted.value) > 1e-6:
                text = f"{metric}: results.json has {cell.value:.6g}, the images give {counted}"
                told.append(Suspicion(case=case, kind="numbers-disagree", text=text))
    if source(record) == "Oracle":
        text = "The repair learnt from images with the true trigger."
        told.append(Suspicion(case="repair", kind="oracle", text=text))
    return told


def _lines(table: Table, answers: Answers, cases: Sequence[str]) -> list[Line]:
    pairs = {
        "clean": Paired.of(answers.named("before"), answers.named("after")),
        "ra": Paired.of(answers.stood("before"), answers.stood("after")),
    }
    lines = []
    for metric in sorted(table.metrics, key=_rank):
        cells = [table.cell(case, metric) for case in cases]
        before, after = table.cell("before", metric), table.cell("after", metric)
        change, detail = "", ""
        if before and after:
            change, detail = parts.change(before, after, pairs.get(metric))
            if metric == "asr" and before.seeds == after.seeds == 1:
                detail = _led(answers)
        about = ABOUT.get(metric, "")
        both = tuple((cell, None) for cell in cells)
        lines.append(Line(metric=metric, about=about, cells=both, change=change, detail=detail))
    return lines


def _rank(metric: str) -> int:
    order = list(ABOUT)
    return order.index(metric) if metric in order else len(order)


def _led(answers: Answers) -> str:
    """How sure the change of the ASR is: healed means another way than in accuracy."""
    freed = Paired.of(~answers.led("before"), ~answers.led("after"))
    low, high = freed.interval
    span = f"[{-100 * high:+.2f}, {-100 * low:+.2f}]"
    chance = "p < 0.001" if freed.p_value < 0.001 else f"p = {freed.p_value:.3f}"
    return f"{span}, {chance}; {freed.healed:,} freed, {freed.harmed:,} newly led"


def _pruning(path: Pruning) -> dict[str, Any]:
    cells = {
        "attack success rate": [Cell.of(rate, "asr") for rate in path.asr],
        "clean accuracy": [Cell.of(rate, "clean") for rate in path.clean],
    }
    gone = [(str(one), f"of {one.channels:,}") for one in path.gone]
    places = [("before", ""), *gone, ("repaired model", "")]
    svg = Markup(figures.svg(figures.pruning_path(cells), "path"))
    rows = list(zip(places, cells["clean accuracy"], cells["attack success rate"], strict=True))
    return {
        "svg": svg,
        "rows": rows,
        "gone": path.gone,
        "images": path.clean[0].total,
        "triggered": path.asr[0].total,
    }
