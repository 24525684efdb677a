"""Write a run's report and tables beside its data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bezoar.files import write_text
from bezoar.report import backdoor_page, pages, tables
from bezoar.report.backdoor_record import of_backdoor
from bezoar.report.record import read


def _page(run: Path) -> str:
    return backdoor_page.render(run) if of_backdoor(run) else pages.render(run)


FORMATS: Mapping[str, tuple[str, Callable[[Path], str]]] = MappingProxyType(
    {
        "html": ("report.html", _page),
        "csv": ("tables/results.csv", lambda run: tables.csv(read(run).rows)),
        "tex": ("tables/results.tex", lambda run: tables.latex(tables.wide(read(run).rows))),
        "md": ("tables/results.md", lambda run: tables.markdown(tables.wide(read(run).rows))),
    }
)


def write(run: Path, formats: Sequence[str] = ("html", "csv", "tex")) -> list[Path]:
    """Write the asked formats into the run folder; return their paths.

    All texts are made before the first is written, and each file is there whole or not at all.

    Args:
        run: the run folder.
        formats: any of ``html``, ``csv``, ``tex``, ``md``.

    Raises:
        FileNotFoundError: the folder or a file that every run has is missing.
        ValueError: an unknown format, or a damaged file in the folder.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ValueError(f"formats={unknown}: expected some of {', '.join(FORMATS)}")
    texts = {run / FORMATS[name][0]: FORMATS[name][1](run) for name in formats}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
