"""Published experiments, run again: a recipe, the cells of its table, the table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bezoar import recipes
from bezoar.files import read_json
from bezoar.fit import Progress, silent
from bezoar.reproduce import backdoors, guards, scans, sized
from bezoar.reproduce.cells import Reproduction
from bezoar.reproduce.recipe import Recipe, read


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
) -> Reproduction | guards.Reproduction | backdoors.Reproduction | scans.Reproduction:
    """A recipe of repairs, of guards, of backdoors or of scans, ready to run.

    The run folder is by default ``runs/NAME-SIZE``, ``notes`` gives the provenance of a command,
    see ``runs.provenance``. With ``keep`` the table that stands in ``results`` lends the rows of
    what is not done; all other arguments are as they have them.

    Raises:
        ValueError: ``keep`` where rows cannot be told apart by the network that they are of.
    """

    def place(name: str) -> tuple[Path, dict[str, str]]:
        there = out or Path("runs") / f"{name}-{size}"
        return there, notes(f"bezoar reproduce {name} --size {size}")

    more: Any = {"root": root, "only": only, "seeds": seeds, "say": say, "on_step": on_step}
    table = recipes.read_toml(path)
    if keep:
        if "look" in table or "subject" not in table:
            raise ValueError(f"--keep: {path.stem}: expected a recipe of guards or of backdoors")
        more["earlier"] = read_json(results / f"{table['name']}.json")
    if "look" in table:
        of_scans = sized.read(scans.Recipe, path)
        return scans.Reproduction(of_scans, size, *place(of_scans.name), **more)
    if "plant" in table:
        of_backdoors = sized.read(backdoors.Recipe, path)
        return backdoors.Reproduction(of_backdoors, size, *place(of_backdoors.name), **more)
    if "subject" in table:
        of_guards = sized.read(guards.Recipe, path)
        more["results"] = results
        return guards.Reproduction(of_guards, size, *place(of_guards.name), **more)
    recipe = read(path)
    return Reproduction(recipe, size, *place(recipe.name), **more)


__all__ = ["Recipe", "Reproduction", "backdoors", "guards", "opened", "read", "scans"]
