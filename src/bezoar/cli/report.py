"""``bezoar report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="html, csv, tex or md; may be given several times."),
    ] = None,
) -> None:
    """Write the report and the tables of a run again, from its files.

    Example: bezoar report runs/demo --format html --format tex
    """
    from bezoar.report import export

    for path in export.write(run, tuple(formats or ("html", "csv", "tex"))):
        print(path)
