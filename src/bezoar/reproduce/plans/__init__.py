"""What recipes may say, by what they are of; whatever is wrong is found before anything is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bezoar import recipes
from bezoar.reproduce.plans import backdoors, guards, repairs, scans

Recipe = repairs.Recipe | guards.Recipe | backdoors.Recipe | scans.Recipe


def read(path: Path) -> Recipe:
    """Read a recipe of repairs, of guards, of backdoors or of scans.

    Raises:
        ValueError: another format, or a field that is unknown, missing or of another type.
    """
    table = recipes.read_toml(path)
    recipe: Recipe = recipes.build(_sort(table), table, path.name)
    if recipe.format != 1:
        raise ValueError(f"{path.name}: format={recipe.format}: expected 1; update bezoar")
    return recipe


def _sort(table: Mapping[str, Any]) -> type[Recipe]:
    """What a recipe is of, by the tables that only such a one has."""
    if "look" in table:
        return scans.Recipe
    if "plant" in table:
        return backdoors.Recipe
    return guards.Recipe if "subject" in table else repairs.Recipe


__all__ = ["Recipe", "backdoors", "guards", "read", "repairs", "scans"]
