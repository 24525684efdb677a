"""What one process is to do of a recipe, and where it puts it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar import checks
from bezoar.fit import Progress, silent
from bezoar.runs import Run


def _quiet(line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one process is to do of a recipe, and where it puts it.

    Args:
        out: the run folder.
        notes: provenance, see ``runs.provenance``.
        root: where the data sets are.
        only: what to work on in this process, by names that the sort of recipe gives: kinds of
            networks, cases ``DATA GUARD``, backdoors ``DATA ATTACK``, repairs of them
            ``DATA ATTACK NAME SOURCE``, or data sets of scans; all if empty.
        seeds: seeds to work on in this process: of networks, victims or models; all if empty.
        results: folder of results files that stand in the same table.
        earlier: results of the same recipe. Of networks that are not made in this run the table
            has its rows, and says under ``kept`` where they are from: the networks there were
            others.
        say: told a line when something is done.
        on_step: told how far a training, a repair or a scan is.
    """

    out: Path
    notes: dict[str, str]
    root: Path | None = None
    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    results: Path = Path("results")
    earlier: Mapping[str, Any] | None = None
    say: Callable[[str], None] = _quiet
    on_step: Callable[[Progress], None] = silent

    @property
    def complete(self) -> bool:
        """Whether nothing of the recipe is left to other processes."""
        return not self.only and not self.seeds

    def require(self, what: str, names: Iterable[str], seeds: Iterable[int]) -> None:
        """Refuse work that the recipe has not got.

        Args:
            what: ``only`` names.
            names: what it may name.
            seeds: what ``seeds`` may hold.

        Raises:
            ValueError: another one.
        """
        names, seeds = list(names), list(seeds)
        for name in self.only:
            checks.known(what, name, names)
        for seed in self.seeds:
            checks.one_of("seed", seed, seeds)

    def run(self, recipe: Any, size: str) -> Run:
        """The run folder of a recipe at a size, made if missing."""
        about = {"title": recipe.name, "recipe": vars(recipe), "size": size}
        return Run(self.out, about, self.notes)
