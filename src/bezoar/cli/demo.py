"""``bezoar demo``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: options.Seed = 0,
    threads: options.Threads = 0,
) -> None:
    """Watch a network get fooled, get repaired and get re-tested, on data that come along.

    The 1,797 handwritten digits of scikit-learn, the 32/64 network, PGD inside the repair; about
    a minute on two cores.

    Example: bezoar demo --out runs/demo
    """
    from bezoar import demo as whole_path
    from bezoar.cli import screen, subject
    from bezoar.runs import provenance

    subject.threads(threads)
    with screen.screen() as bars:
        results = whole_path.demo(
            out,
            seed,
            provenance(subject.command()),
            on_step=bars.on_step,
            on_unit=bars.on_unit,
        )
    screen.before_after(results, ["before", "after"])
    screen.closing(results, out)
