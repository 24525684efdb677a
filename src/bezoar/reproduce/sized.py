"""What a size makes of a recipe: fewer images, narrower networks; and how readers are told."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from bezoar import audit, checks, data, recipes
from bezoar.data.imageset import DataSet
from bezoar.report import tables

Size = TypeVar("Size")


def chosen(kind: type[Size], sizes: Mapping[str, Mapping[str, Any]], name: str) -> Size:
    """One of the sizes of a recipe, a dataclass.

    Raises:
        ValueError: no size of that name, or a setting that is not one.
    """
    checks.known("size", name, sizes)
    made: Size = recipes.build(kind, sizes[name], f"sizes.{name}")
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


def beside(
    table: Sequence[audit.Row], published: Mapping[str, Mapping[str, float]]
) -> list[audit.Row]:
    """The rows of a table, with what was published of their case and metric."""
    return [
        {**row, "paper": published[row["case"]][row["metric"]]}
        if row["metric"] in published.get(row["case"], {})
        else row
        for row in table
    ]


def unpublished(results: Mapping[str, Any] | None) -> list[audit.Row]:
    """The rows of a results file, without what was published beside them; none of no file.

    Raises:
        ValueError: the file is not of the form of a results table.
    """
    rows = tables.validate(results) if results else []
    return [{key: value for key, value in row.items() if key != "paper"} for row in rows]


def kept(earlier: Mapping[str, Any], cases: set[str]) -> list[dict[str, Any]]:
    """Where rows that were taken over come from: by run, its revision, machine and cases.

    Args:
        earlier: the results that they stood in; what these had taken over keeps its origin.
        cases: names of what was taken over.
    """
    found, rest = [], set(cases)
    for before in earlier.get("kept", []):
        if own := sorted(rest & set(before["cases"])):
            found.append({**before, "cases": own})
            rest -= set(own)
    if rest:
        place = {name: earlier[name] for name in ("revision", "machine")}
        found.append({**place, "cases": sorted(rest)})
    return found


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
