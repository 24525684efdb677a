"""What a person sees while a verb works: bars on stderr, and only where it is a terminal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from bezoar.costs import Latency
from bezoar.fit import Progress as Step


class Screen:
    """The callbacks that ``fit`` and ``experiments`` take, drawn as bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, tuple[TaskID, int]] = {}  # bar, and how far it was

    def on_step(self, step: Step) -> None:
        """A training made a step: one bar over all its epochs, in images."""
        total, done = step.epochs * step.rows, (step.epoch - 1) * step.rows + step.done
        text = f"epoch {step.epoch}/{step.epochs}, loss {step.loss:.4f}"
        self._show("training", text, done, total)

    def on_unit(self, what: str, done: int, units: int) -> None:
        """A unit of an attack is done."""
        self._show("attack", what, done, units)

    def say(self, line: str) -> None:
        """Print a line above the bars, to stderr."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, name: str, text: str, done: int, total: int) -> None:
        bar, before = self._bars.get(name, (None, 0))
        if bar is None or done <= before:  # the next training, the next attack
            if bar is not None:
                self._progress.remove_task(bar)
            bar = self._progress.add_task(name, total=total, text=text, rate="")
        speed = next(task.speed for task in self._progress.tasks if task.id == bar)
        rate = f"{speed:,.0f} images/s" if speed and name == "training" else ""
        self._progress.update(bar, completed=done, total=total, text=text, rate=rate)
        self._bars[name] = (bar, done)


@contextmanager
def screen() -> Iterator[Screen]:
    """Show bars while the body runs; they are gone afterwards."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        yield Screen(bars)


def before_after(results: dict[str, Any], cases: Sequence[str]) -> None:
    """Print rates and distances of some cases beside each other, with intervals and counts."""
    from bezoar.report import tables

    rows = tables.validate(results)
    shown = [row for row in rows if tables.rate(row["metric"]) or tables.distance(row["metric"])]
    wide = tables.wide(shown, cases)
    table = Table("metric", *cases, "images", box=None, pad_edge=False)
    for metric in wide.metrics:
        cells = [wide.cell(case, metric) for case in cases]
        words = [f"{cell.text} [{cell.span}]" if cell else "" for cell in cells]
        count = next((f"{cell.n:,}" for cell in cells if cell and cell.n), "")
        table.add_row(metric, *words, count)
    _print(table)


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 100)
    console.print(table)


def latencies(title: str, measured: Sequence[Latency]) -> None:
    """Print what each part of a model takes, and the whole beside the classifier alone."""
    from bezoar.report import timings

    print(f"{title}: {timings.where(measured)}")
    table = Table(box=None, pad_edge=False)
    for name in timings.HEAD:
        table.add_column(name, justify="left" if name == timings.HEAD[0] else "right")
    for row in timings.rows(measured):
        table.add_row(*row)
    _print(table)
    for line in timings.ratios(measured):
        print(line)


def closing(results: dict[str, Any], out: object) -> None:
    """Print warnings and verdicts, and where the evidence is."""
    for warning in results["warnings"]:
        print(f"warning: {warning['case']}: {warning['kind']}: {warning['text']}")
    for name, verdict in results.get("verdict", {}).items():
        case = {"sick": "before", "well": "after"}[name]
        print(f"{case}: {verdict['text']}: {verdict['outcome']}")
    print(f"report: {out}/report.html")
