"""One page from a run folder: is the model sick, what was done, is it well now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bezoar.report import figures, findings, parts, tables, timings
from bezoar.report.cards import cards
from bezoar.report.exhibits import exhibits
from bezoar.report.figures import Curve
from bezoar.report.findings import Headline
from bezoar.report.parts import Line
from bezoar.report.record import CASES, Record, read
from bezoar.report.tables import Cell, Table


@dataclass(frozen=True)
class Published:
    """A published table: where it stands, and its rows (what, case, metric, accuracy, loss)."""

    title: str
    source: str
    link: str
    rows: tuple[tuple[str, str, str, float, float], ...]
    note: str


PAPER: Mapping[str, Published] = {
    "lenet-fgsm": Published(
        title="Protecting the Neural Networks against FGSM Attack Using Machine Unlearning",
        source="arXiv:2511.01377",
        link="https://arxiv.org/abs/2511.01377",
        rows=(
            ("original test images", "before", "clean", 0.9932, 0.0271),
            ("adversarial test images", "before", "fgsm@0.1", 0.0796, 2.3045),
            ("adversarial, updated model", "after", "fgsm@0.1", 0.9669, 0.1546),
        ),
        note=(
            "The published loss of 2.3045 is close to ln 10 = 2.3026, the loss of a network that "
            "gives all ten classes the same probability. A trained network that is fooled is "
            "confidently wrong, so its loss is usually higher."
        ),
    )
}


# What follows from the facts of an attack without a radius.
DERIVED = {
    "found": "fooled at any distance, of the images that were right",
    "median": "distance of the nearest image that fools, of the images that were right",
}


def render(run: Path) -> str:
    """The report of a run folder: one HTML page that fetches nothing and runs nothing.

    The same folder gives the same bytes, wherever it lies.

    Raises:
        FileNotFoundError: the folder or a file that every run has is missing.
        ValueError: a file in it is damaged, of another format, or holds impossible values.
    """
    record = read(run)
    table = tables.wide(record.rows)
    found = findings.headline(record)
    suspicions = findings.suspicions(record, table, found)
    cases = [case for case in CASES if case in table.cases]
    cases += [case for case in table.cases if case not in CASES]
    called = {case: case for case in (*CASES, *cases)}
    if "after" not in cases:
        called["before"] = "the model"  # before what? nothing came after
    page = {
        "title": str(record.about.get("title") or "Report"),
        "record": record,
        "cards": cards(record, table, found, suspicions),
        "headline": found,
        "cases": cases,
        "called": called,
        "lines": _lines(record, table, found, cases),
        "curves": _curves(table, called, cases),
        "suspicions": suspicions,
        "checked": isinstance(record.results.get("warnings"), list),
        "progress": parts.progress(record),
        "exhibits": exhibits(record, found),
        "targeted": any(one.targeted for one in record.measured),
        "gallery_attack": findings.strongest(record, found) if found else None,
        "cost": parts.cost(record),
        "latency": _latency(record),
        "published": PAPER.get(str(record.section("settings").get("paper"))),
        "table": table,
        "paper_rows": [row for row in record.rows if "paper" in row],
        "provenance": parts.provenance(record),
        "digest": parts.digest(run),
    }
    return parts.environment().get_template("report.html.j2").render(page)


def _lines(
    record: Record, table: Table, found: Headline | None, cases: Sequence[str]
) -> list[Line]:
    metrics = list(table.metrics)
    losses = {_loss_of(metric): metric for metric in metrics if metric.startswith("loss")}
    rates = [metric for metric in metrics if tables.rate(metric)]
    if found and found.name not in metrics:
        rates.append(found.name)
    others = [m for m in metrics if not tables.rate(m) and _loss_of(m) not in rates]
    lines = []
    for metric in [*sorted(rates, key=_rank), *others]:
        cells = []
        for case in cases:
            cell = table.cell(case, metric)
            counted = getattr(found, case, None)
            if cell is None and found and counted and metric == found.name:
                cell = Cell.of(counted, metric)
            loss = table.cell(case, losses[metric]) if metric in losses else None
            cells.append((cell, loss))
        change, detail = _change(record, metric, found, dict(zip(cases, cells, strict=True)))
        about = _about(record, metric, found)
        lines.append(
            Line(metric=metric, about=about, cells=tuple(cells), change=change, detail=detail)
        )
    return lines


def _loss_of(metric: str) -> str:
    """The rate that a loss belongs to: ``loss`` to ``clean``, ``loss:fgsm@0.1`` to its attack."""
    return "clean" if metric == "loss" else metric.removeprefix("loss:")


def _rank(metric: str) -> tuple[int, str, float]:
    """Clean and worst case, then attacks by name and radius, noise, images of other models."""
    name = metric.partition("@")[0]
    place = {"clean": 0, "robust": 1, "noise": 3}.get(name.partition("-")[0], 2)
    place = 4 if ":" in name else place
    return place, name, tables.radius(metric) or 0.0


def _change(
    record: Record,
    metric: str,
    found: Headline | None,
    cells: Mapping[str, tuple[Cell | None, Cell | None]],
) -> tuple[str, str]:
    (before, _), (after, _) = cells.get("before", (None, None)), cells.get("after", (None, None))
    if before is None or after is None:
        return "", ""
    paired = findings.change(record, metric)
    if found and metric == found.name:
        paired = found.change
    return parts.change(before, after, paired)


def _about(record: Record, metric: str, found: Headline | None) -> str:
    if metric == "clean":
        return "no attack"
    if found and metric == found.name and len(found.metrics) > 1:
        return f"right under every one of {', '.join(found.metrics)}"
    if metric.startswith("targeted") and ":" not in metric:
        return "led to the target by any attack up to this radius"
    if metric.startswith("robust"):
        return "right under every attack up to this radius"
    what, _, name = metric.partition(":")
    of = [m for m in record.measured if m.metric == (name if what in DERIVED else metric)]
    of = of or [m for m in record.measured if m.free and m.metric == metric.rpartition("@")[0]]
    if not of:
        return DERIVED.get(what, "")
    access = "white-box" if all(m.white_box for m in of) else of[0].stamp.get("access")
    led = f"led to the target ({of[0].stamp['target']})" if of[0].targeted else None
    said = (led, DERIVED.get(what), of[0].stamp.get("norm"), access)
    return ", ".join(str(part) for part in said if part)


def _curves(table: Table, called: Mapping[str, str], cases: Sequence[str]) -> list[dict[str, Any]]:
    drawn = []
    for number, (attack, by_case) in enumerate(findings.curves(table, cases).items()):
        lines = [Curve(called[case], _drawn(points)) for case, points in by_case.items()]
        svg = Markup(figures.svg(figures.accuracy_curve(lines), f"curve{number}"))
        radii = sorted({eps for points in by_case.values() for eps, _ in points})
        cells = {case: dict(points) for case, points in by_case.items()}
        drawn.append({"attack": attack, "svg": svg, "radii": radii, "cells": cells})
    return drawn


def _drawn(points: Sequence[tuple[float, Cell]]) -> tuple[tuple[float, Cell], ...]:
    """Without eps = 1, where anything goes and which would squeeze the rest; the table has it."""
    return tuple(p for p in points if p[0] < 1 or not any(0 < eps < 1 for eps, _ in points))


def _latency(record: Record) -> dict[str, Any] | None:
    if not record.latency:
        return None
    return {
        "where": timings.where(record.latency),
        "head": timings.HEAD,
        "rows": timings.rows(record.latency),
        "ratios": timings.ratios(record.latency),
    }
