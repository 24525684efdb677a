"""Published experiments, run again: a recipe, the cells of its table, the table."""

from bezoar.reproduce.cells import Reproduction
from bezoar.reproduce.recipe import Recipe, read

__all__ = ["Recipe", "Reproduction", "read"]
