"""Published experiments, run again: a recipe, the cells of its table, the table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bezoar import recipes
from bezoar.files import read_json
from bezoar.fit import Progress, silent
from bezoar.reproduce import backdoors, guards, scans, sized
from bezoar.reproduce.cells import Reproduction
from bezoar.reproduce.order import Order
from bezoar.reproduce.recipe import Recipe, read

Work = Reproduction | guards.Reproduction | backdoors.Reproduction | scans.Reproduction


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
    table = recipes.read_toml(path)
    kind, made = _sort(table)
    recipe: Any = read(path) if kind is Recipe else sized.read(kind, path)
    if keep and kind not in (guards.Recipe, backdoors.Recipe):
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
    return made(recipe, size, order)


def _sort(table: Mapping[str, Any]) -> tuple[Any, Callable[[Any, str, Order], Work]]:
    """Which recipe a file holds, and who runs it."""
    if "look" in table:
        return scans.Recipe, scans.Reproduction
    if "plant" in table:
        return backdoors.Recipe, backdoors.Reproduction
    if "subject" in table:
        return guards.Recipe, guards.Reproduction
    return Recipe, Reproduction


__all__ = ["Order", "Recipe", "Reproduction", "backdoors", "guards", "opened", "read", "scans"]
