"""A results file as a page of the documentation."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bezoar.files import write_json, write_text
from bezoar.report import tables
from bezoar.report.tables import Row, shown

# Metrics that name a radius or a norm, and maybe a peer, before which a table of many cases has one
# column each: the radius or the norm goes to the case.
_BESIDE = re.compile(r"(robust|median)(?::(?P<norm>l\w+))?(?P<peer>:[^@]+)?(?P<eps>@.*)?")

# Sections by the first letters of a metric; what no section takes comes last.
SECTIONS = (
    ("Accuracy, white-box", ("clean", "fgsm@", "pgd")),
    ("Certified accuracy, L2", ("certified@", "abstained")),
    (
        "Detection",
        (
            *("false-alarms", "standing:", "caught:", "auc:"),
            *("greybox:standing:", "greybox:caught:", "greybox:auc:"),
        ),
    ),
    ("Attackers who ignore the guard", ("greybox:",)),
    ("The guard taken for the identity on the way back", ("bpda:",)),
    ("Attackers who know less", ("attacked:", "transfer:", "stale:")),
    ("Ours less the best peer's", ("excess",)),
    ("Robust accuracy", ("robust",)),
    ("Median distance", ("median",)),
    ("Time of an image", ("latency", "ratio:classifier")),
    ("Times as fast", ("ratio",)),
    ("Memory", ("memory",)),
    ("Loss", ("loss",)),
    ("Validation", ("validation:",)),
    ("Backdoors", ("asr", "ra", "der", "drop")),
    ("What the first of a pair has over the second", ("gain:",)),
    ("Cost", ("passes", "seconds", "rounds", "added", "removed")),
)


def write(table: Mapping[str, Any], name: str, results: Path, pages: Path) -> list[Path]:
    """Write the results file and the page that is rendered from it; return both."""
    text = page(table, name)
    paths = [results / f"{name}.json", pages / f"{name}.md"]
    write_json(paths[0], table)
    write_text(paths[1], text)
    return paths


def page(results: Mapping[str, Any], name: str) -> str:
    """Render a results file; equal files give equal pages.

    A file may have ``sections`` of its own, beginnings of metrics by title; they come first.

    Raises:
        ValueError: the file is not of the form of a results table.
    """
    rows = tables.validate(results)
    head = (
        f"# {name}: results\n\nRendered from `results/{name}.json`; do not edit by hand. Made by "
        f"`{results['command']}` at revision {results['revision']}, on {results['machine']}.\n"
    )
    parts = [head]
    parts += [f"- {line}\n" for line in results.get("about", [])]
    for kept in results.get("kept", []):
        where = f"revision {kept['revision']}, on {kept['machine']}"
        cases = "; ".join(kept["cases"])
        parts.append(f"Kept from {where}, where the networks were others: {cases}.\n")
    if missing := results.get("missing"):
        parts.append("\n".join(["Not measured yet:\n", *(f"- {what}" for what in missing), ""]))
    rows = [_gathered(row) for row in rows]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    for title, starts in (*results.get("sections", {}).items(), *SECTIONS):
        chosen = [metric for metric in metrics if metric.startswith(tuple(starts))]
        metrics = [metric for metric in metrics if metric not in chosen]
        parts += _section(title, rows, chosen)
    parts += _section("Further metrics", rows, metrics)
    parts += _published(rows)
    for file, caption in results.get("figures", {}).items():
        parts.append(f"## {caption}\n\n![{caption}]({file})\n")
    told = dict.fromkeys(f"- {w['case']}, {w['kind']}: {w['text']}" for w in results["warnings"])
    parts.append("## Warnings\n\n" + ("\n".join(told) or "None.") + "\n")
    return "\n".join(parts)


def _gathered(row: Row) -> Row:
    named = _BESIDE.fullmatch(row["metric"])
    if named is None:
        return row
    place = named["eps"] or f"in {named['norm']}"
    return {**row, "case": f"{row['case']} {place}", "metric": f"{named[1]}{named['peer'] or ''}"}


def _section(title: str, rows: list[Row], metrics: list[str]) -> list[str]:
    if not metrics:
        return []
    chosen = [row for row in rows if row["metric"] in metrics]
    return [f"## {title}\n\n{tables.markdown(tables.wide(chosen, metrics=metrics))}"]


def _published(rows: list[Row]) -> list[str]:
    lines = [
        f"| {row['case']} | {row['metric']} | {row['seed']} | {shown(row['value'], row['metric'])} "
        f"| {shown(row['paper'], row['metric'])} |"
        for row in rows
        if "paper" in row
    ]
    if not lines:
        return []
    head = ["| case | metric | seed | measured | paper |", "| --- | --- | ---: | ---: | ---: |"]
    return ["## Beside the paper\n\n" + "\n".join([*head, *lines]) + "\n"]
