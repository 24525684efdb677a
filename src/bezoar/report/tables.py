"""Result tables: rows in long form, checked, made wide, and written as CSV, LaTeX or Markdown."""

import csv as csv_writer
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

from bezoar.results import Rate

COLUMNS = ("case", "seed", "metric", "value", "low", "high", "n", "paper")

# A name starts with a letter or a digit, so that no spreadsheet takes it for a formula.
_NAME = re.compile(r"[^\W_][^\x00-\x1f\x7f]{0,199}")

# Everything else that is measured is a rate in [0, 1].
_AMOUNTS = frozenset(
    [
        "loss",
        "seconds",
        "passes",
        "forward",
        "backward",
        "images",
        "added",
        "removed",
        "rounds",
        "epochs",
        "ratio",
        "median",
        "memory",
        "difference",
        "excess",
        "drop",
        "gain",
        "threshold",
    ]
)
# Differences of rates, and scores: they may be below zero.
_SIGNED = frozenset(["excess", "drop", "gain", "threshold"])


class Row(TypedDict):
    """One measured number: which case, which seed, which metric, and how sure it is.

    A metric is ``name`` or ``name@eps``, with ``loss:``, ``transfer:`` and the like before it.
    ``low`` and ``high`` are a 95 % interval, ``n`` the count of images behind the value, and
    ``paper`` what was published for the same row.
    """

    case: str
    seed: int
    metric: str
    value: float
    low: NotRequired[float]
    high: NotRequired[float]
    n: NotRequired[int]
    paper: NotRequired[float]


def rate(metric: str) -> bool:
    """Whether a metric is a rate in [0, 1]; a loss, a time or a count is none.

    >>> rate("transfer:fgsm@0.1"), rate("loss:fgsm@0.1"), rate("latency64")
    (True, False, False)
    """
    head = _head(metric)
    return head not in _AMOUNTS and not head.startswith("latency")


def _head(metric: str) -> str:
    return metric.partition("@")[0].partition(":")[0]


def distance(metric: str) -> bool:
    """Whether a metric is a distance between images.

    >>> distance("median:l2"), distance("loss")
    (True, False)
    """
    return metric.startswith("median:")


def radius(metric: str) -> float | None:
    """The eps of a metric, in pixel units; ``None`` where it has none.

    >>> radius("fgsm@0.1"), radius("pgd40@8/255") == 8 / 255, radius("clean")
    (0.1, True, None)
    """
    top, _, bottom = metric.partition("@")[2].partition("/")
    try:
        eps = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return eps if math.isfinite(eps) and eps >= 0 else None


def validate(results: Mapping[str, Any]) -> list[Row]:
    """Check a result table and return its rows.

    Args:
        results: ``{"command": ..., "revision": ..., "machine": ..., "rows": [...]}``.

    Raises:
        ValueError: something is missing or unknown, not finite, a rate outside [0, 1], an interval
            that does not hold its value, or a row that is there twice. The row is named.
    """
    for key in ("command", "revision", "machine"):
        if not isinstance(results.get(key), str):
            raise ValueError(f"results: {key}={results.get(key)!r}: expected text")
    rows = results.get("rows")
    if not isinstance(rows, list):
        raise ValueError(f"results: rows of type {type(rows).__name__}: expected a list")
    seen = set()
    for position, row in enumerate(rows):
        _validate_row(row, f"row {position}")
        place = (row["case"], row["seed"], row["metric"])
        if place in seen:
            raise ValueError(f"row {position} {place}: is there twice; keep one")
        seen.add(place)
    return cast(list[Row], rows)


def _validate_row(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {row!r}: expected an object with {', '.join(COLUMNS)}")
    for name in ("case", "metric"):
        if not isinstance(row.get(name), str) or not _NAME.fullmatch(row[name]):
            expected = "expected text on one line that starts with a letter or digit"
            raise ValueError(f"{where}: {name}={row.get(name)!r}: {expected}")
    where = f"{where} ({row['case']}, {row['metric']})"
    if odd := sorted(set(row) - set(COLUMNS)):
        raise ValueError(f"{where}: unknown {odd}: expected only {', '.join(COLUMNS)}")
    if not _whole(row.get("seed"), 0):
        raise ValueError(f"{where}: seed={row.get('seed')!r}: expected an integer >= 0")
    if "n" in row and not _whole(row["n"], 1):
        raise ValueError(f"{where}: n={row['n']!r}: expected an integer >= 1")
    floor, ceiling, expected = _range(row["metric"])
    for name in ("value", "low", "high", "paper"):
        if (name in row or name == "value") and not _number(row.get(name), floor, ceiling):
            raise ValueError(f"{where}: {name}={row.get(name)!r}: {expected}")
    if not row.get("low", row["value"]) <= row["value"] <= row.get("high", row["value"]):
        found = f"low={row.get('low')}, value={row['value']}, high={row.get('high')}"
        raise ValueError(f"{where}: {found}: expected low <= value <= high")


def _range(metric: str) -> tuple[float, float, str]:
    if _head(metric) in _SIGNED:
        return -math.inf, math.inf, "expected a finite number"
    if rate(metric):
        return 0.0, 1.0, "expected a number in [0, 1]"
    return 0.0, math.inf, "expected a finite number >= 0"


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object, floor: float, ceiling: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and floor <= value <= ceiling


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One case under one metric: a mean over seeds.

    Attributes:
        metric: what was measured.
        value: mean over the seeds.
        low, high: with one seed its interval, with several the lowest and the highest value.
        n: images behind a value; of several seeds the fewest.
        seeds: how many seeds were averaged.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    seeds: int = 1

    @classmethod
    def of(cls, found: Rate, metric: str) -> "Cell":
        """The cell of a rate that was counted here."""
        low, high = found.interval
        return cls(metric=metric, value=found.value, low=low, high=high, n=found.total)

    @property
    def text(self) -> str:
        """The value as it is printed: a rate in per cent, a count in thousands."""
        return shown(self.value, self.metric)

    @property
    def span(self) -> str:
        """``low to high`` as printed, empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        low = shown(self.low, self.metric).removesuffix(" %")
        return f"{low} to {shown(self.high, self.metric)}"


def shown(value: float, metric: str) -> str:
    """A value of a metric for readers.

    >>> shown(0.9669, "fgsm@0.1"), shown(2.3045, "loss"), shown(1234567, "passes")
    ('96.69 %', '2.3045', '1,234,567')
    """
    if rate(metric):
        return f"{100 * value:.2f} %"
    if distance(metric):
        return f"{value:.4g}"
    if metric.startswith("loss"):
        return f"{value:.4f}"
    if metric == "threshold":
        return f"{value:.4g}"
    if _head(metric) in _SIGNED:
        return f"{100 * value:+.2f} %"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


@dataclass(frozen=True)
class Table:
    """A wide table: one row a case, one column a metric; a combination may be missing."""

    cases: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    def cell(self, case: str, metric: str) -> Cell | None:
        """What was measured there, if anything."""
        return self.cells.get((case, metric))


def wide(
    rows: Iterable[Row], cases: Sequence[str] | None = None, metrics: Sequence[str] | None = None
) -> Table:
    """Put rows into a table, averaging over seeds.

    Args:
        rows: rows as ``validate`` returns them.
        cases: cases to show, in this order; all, in the order of the rows, if not given.
        metrics: the same for metrics.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["metric"]), []).append(row)
    cases = tuple(dict.fromkeys(case for case, _ in groups) if cases is None else cases)
    metrics = tuple(dict.fromkeys(metric for _, metric in groups) if metrics is None else metrics)
    cells = {
        key: _cell(key[1], group)
        for key, group in groups.items()
        if key[0] in cases and key[1] in metrics
    }
    return Table(cases, metrics, cells)


def _cell(metric: str, rows: Sequence[Row]) -> Cell:
    values = [row["value"] for row in rows]
    counts = [row["n"] for row in rows if "n" in row]
    low, high = rows[0].get("low"), rows[0].get("high")
    if len(rows) > 1:
        low, high = min(values), max(values)
    return Cell(
        metric=metric,
        value=math.fsum(values) / len(values),
        low=low,
        high=high,
        n=min(counts, default=None),
        seeds=len(rows),
    )


def csv(rows: Iterable[Row]) -> str:
    """Rows in long form with a header line; numbers keep all their digits."""
    text = io.StringIO()
    writer = csv_writer.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(table: Table) -> str:
    """The table in Markdown; what the brackets hold and how many images, below it."""
    lines = [["case", *table.metrics], ["---", *["---:"] * len(table.metrics)]]
    lines += [[case, *_texts(table, case)] for case in table.cases]
    body = [f"| {' | '.join(map(_markdown_escaped, line))} |" for line in lines]
    return "\n".join([*body, "", _markdown_escaped(_note(table)), ""])


def latex(table: Table) -> str:
    """The table as a LaTeX ``tabular`` with booktabs rules; every name is escaped."""
    lines = [f"% {_note(table)}", rf"\begin{{tabular}}{{l{'r' * len(table.metrics)}}}", r"\toprule"]
    lines += [_latex_line(["case", *table.metrics]), r"\midrule"]
    lines += [_latex_line([case, *_texts(table, case)]) for case in table.cases]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _texts(table: Table, case: str) -> list[str]:
    cells = [table.cell(case, metric) for metric in table.metrics]
    return [_text(cell) if cell else "" for cell in cells]


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.span})" if cell.span else cell.text


def _note(table: Table) -> str:
    seeds = sorted({cell.seeds for cell in table.cells.values()}) or [1]
    images = sorted({cell.n for cell in table.cells.values() if cell.n is not None})
    said = "Mean over seeds, lowest to highest in brackets"
    if seeds == [1]:
        said = "One seed, 95 % interval in brackets"
    elif len(seeds) > 1:
        said += " (where there is one seed, its 95 % interval)"
    counted = f"; seeds: {', '.join(map(str, seeds))}"
    return said + counted + (f"; images: {', '.join(f'{n:,}' for n in images)}." if images else ".")


def _markdown_escaped(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _latex_line(texts: Sequence[str]) -> str:
    escaped = ["".join(_LATEX.get(letter, letter) for letter in text) for text in texts]
    return " & ".join(escaped) + r" \\"
