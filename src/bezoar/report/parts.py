"""What the pages have in common: templates, a row of the table, the log and cost of a repair."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bezoar.report import figures, tables
from bezoar.report.paired import Paired
from bezoar.report.record import Record, finite
from bezoar.report.tables import Cell

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A metric in the table of before and after: a cell and a loss for each case."""

    metric: str
    about: str
    cells: tuple[tuple[Cell | None, Cell | None], ...]
    change: str
    detail: str

    @property
    def n(self) -> str:
        """Images behind the cells; both counts where they differ."""
        counts = dict.fromkeys(cell.n for cell, _ in self.cells if cell and cell.n is not None)
        return " / ".join(f"{count:,}" for count in counts)


def environment() -> Environment:
    """The templates, with what they need; equal contexts give equal bytes."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # every name comes from a file
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["style"] = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    made.filters["shown"] = tables.shown
    made.filters["amount"] = lambda value: tables.shown(value, "images")
    return made


def change(before: Cell, after: Cell, paired: Paired | None) -> tuple[str, str]:
    """How a metric changed and, of a rate whose images were paired, how sure that is."""
    difference = after.value - before.value
    if not tables.rate(before.metric):
        sign = "-" if difference < 0 else "+"
        return f"{sign}{tables.shown(abs(difference), before.metric)}", ""
    text = f"{100 * difference:+.2f} points"
    if paired is None or before.seeds > 1 or after.seeds > 1:
        return text, ""
    low, high = paired.interval
    span = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    chance = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
    return text, f"{span}, {chance}; {paired.healed:,} healed, {paired.harmed:,} harmed"


def digest(run: Path) -> str:
    """SHA-256 of ``results.json``, in hexadecimal digits."""
    return sha256((run / "results.json").read_bytes()).hexdigest()


def progress(record: Record) -> dict[str, Any] | None:
    """The log of a repair as a figure and a table; ``None`` where there is none."""
    if not record.repair or not record.repair["rows"]:
        return None
    rows: list[dict[str, float]] = record.repair["rows"]
    first = ("round", "loss", "clean", "robust", "added", "removed")
    last = ("images", "forward", "backward", "seconds")
    named = dict.fromkeys(name for row in rows for name in row)
    middle = [name for name in named if name not in {*first, *last}]
    columns = [name for name in (*first, *middle, *last) if name in named]
    drawable = any(name in named for name in ("loss", "clean", "robust"))
    svg = Markup(figures.svg(figures.repair_progress(rows), "progress")) if drawable else None
    shown = [[_logged(row[name], name) if name in row else "" for name in columns] for row in rows]
    return {"svg": svg, "columns": columns, "rows": shown}


def _logged(value: float, name: str) -> str:
    if name in ("layer", "filter") and value < 0:
        return ""  # a round in which none went
    if "loss" in name:
        return tables.shown(value, "loss")
    share = name.startswith(("clean", "robust")) and 0 <= value <= 1
    return tables.shown(value, "clean" if share else "images")


def cost(record: Record) -> list[tuple[str, str]]:
    """What a repair cost, as pairs of name and text."""
    spent = (record.repair or {}).get("cost", {})
    names = {
        "images": "images trained on",
        "forward": "forward passes",
        "backward": "backward passes",
        "seconds": "seconds",
    }
    return [(names.get(name, name), tables.shown(value, name)) for name, value in spent.items()]


def provenance(record: Record) -> list[tuple[str, str]]:
    """``run.json`` as pairs of name and text, what is inside an object one level down by dots."""
    pairs = []
    for name, value in record.about.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        pairs += [(f"{name}.{key}" if key else name, _words(part)) for key, part in inner]
    return pairs


def _words(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) or finite(part) for part in value):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
