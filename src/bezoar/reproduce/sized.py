"""What a size makes of a recipe: fewer images, narrower networks; and how readers are told."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from bezoar import checks, data, recipes
from bezoar.data.imageset import DataSet

Recipe = TypeVar("Recipe")


def read(kind: type[Recipe], path: Path) -> Recipe:
    """Read a recipe of a kind and refuse what is unknown in it, before anything is run.

    Args:
        kind: a dataclass with a field ``format``.
        path: the TOML file.
    """
    recipe: Any = recipes.build(kind, recipes.read_toml(path), path.name)
    if recipe.format != 1:
        raise ValueError(f"{path.name}: format={recipe.format}: expected 1; update bezoar")
    made: Recipe = recipe
    return made


def network(text: str, own: Mapping[str, Any]) -> str:
    """A network with some fields set otherwise, as text again.

    Raises:
        ValueError: an unknown network or field.
    """
    kind, given = recipes.network(text)
    for name in own:
        checks.known(f"{kind}: field", name, recipes.of_network(kind))
    told = ",".join(f"{name}={value}" for name, value in {**given, **own}.items())
    return f"{kind}:{told}" if told else kind


class Sets:
    """The data sets of a recipe, each loaded once, with the first images of their splits.

    Args:
        root: where they are.
        train, validation, test: how many images at most; 0 is all.
    """

    def __init__(
        self, root: Path | None, *, train: int = 0, validation: int = 0, test: int = 0
    ) -> None:
        self._root, self._loaded = root, dict[str, DataSet]()
        self._counts = {"train": train, "validation": validation, "test": test}

    def __getitem__(self, name: str) -> DataSet:
        if name not in self._loaded:
            whole = data.load(name, root=self._root)
            kept: dict[str, Any] = {
                split: getattr(whole, split).at_most(count) for split, count in self._counts.items()
            }
            self._loaded[name] = replace(whole, **kept)
        return self._loaded[name]


def told(size: Any) -> str:
    """A size, a dataclass, for readers: its numbers, its tables field by field."""
    said = []
    for name, value in ((one.name, getattr(size, one.name)) for one in fields(size)):
        if not isinstance(value, Mapping):
            nothing = name in ("train", "validation", "test") and not value
            said.append(f"{name} {'all' if nothing else value}")
        elif name == "instead":
            for key, settings in value.items():
                said.append(f"{key} with {', '.join(f'{k}={v}' for k, v in settings.items())}")
        else:
            said += [f"{name} {key}={own}" for key, own in value.items()]
    return "; ".join(said)
