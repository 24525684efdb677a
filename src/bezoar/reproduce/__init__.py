"""Published experiments, run again: a recipe, the cells of its table, the table.

What a recipe may say stands in ``plans``; who does it has the same name here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from bezoar.files import read_json
from bezoar.fit import Progress, silent
from bezoar.reproduce import backdoors, guards, plans, repairs, scans
from bezoar.reproduce.order import Order
from bezoar.reproduce.plans import read

Work = repairs.Reproduction | guards.Reproduction | backdoors.Reproduction | scans.Reproduction


def opened(
    path: Path,
    size: str,
    out: Path | None,
    notes: Callable[[str], dict[str, str]],
    *,
    root: Path | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    results: Path = Path("results"),
    keep: bool = False,
    say: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Progress], None] = silent,
) -> Work:
    """A recipe of repairs, of guards, of backdoors or of scans, ready to run.

    The run folder is by default ``runs/NAME-SIZE``, ``notes`` gives the provenance of a command,
    see ``runs.provenance``. With ``keep`` the table that stands in ``results`` lends the rows of
    what is not done; all other arguments are those of ``Order``.

    Raises:
        ValueError: ``keep`` where rows cannot be told apart by the network that they are of.
    """
    recipe = read(path)
    if keep and not isinstance(recipe, plans.guards.Recipe | plans.backdoors.Recipe):
        raise ValueError(f"--keep: {recipe.name}: expected a recipe of guards or of backdoors")
    order = Order(
        out=out or Path("runs") / f"{recipe.name}-{size}",
        notes=notes(f"bezoar reproduce {recipe.name} --size {size}"),
        root=root,
        only=only,
        seeds=seeds,
        results=results,
        earlier=read_json(results / f"{recipe.name}.json") if keep else None,
        say=say,
        on_step=on_step,
    )
    match recipe:
        case plans.repairs.Recipe():
            return repairs.Reproduction(recipe, size, order)
        case plans.guards.Recipe():
            return guards.Reproduction(recipe, size, order)
        case plans.backdoors.Recipe():
            return backdoors.Reproduction(recipe, size, order)
        case plans.scans.Recipe():
            return scans.Reproduction(recipe, size, order)


__all__ = ["Order", "backdoors", "guards", "opened", "read", "repairs", "scans"]
