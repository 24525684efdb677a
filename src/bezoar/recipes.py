"""From text to values: methods by name with settings, as the command line and TOML give them.

A method is written ``NAME`` or ``NAME:FIELD=VALUE,FIELD=VALUE`` on the command line, and as a
name or a table with ``name`` and fields in TOML. Unknown names and fields are errors, with a guess
at what was meant.
"""

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bezoar import checks
from bezoar.attacks import ATTACKS, Attack
from bezoar.guards import GUARDS, Guard
from bezoar.models import MODELS
from bezoar.repairs import RANKINGS, REPAIRS, SCORES, SELECTIONS, SOURCES, TWINS, Repair
from bezoar.repairs.pruning import Score
from bezoar.repairs.remove import Ranking
from bezoar.repairs.selection import Selection
from bezoar.repairs.sources import Source
from bezoar.repairs.twins import Schedule
from bezoar.scans import DATA_SCANS, MODEL_SCANS, DataScan, ModelScan
from bezoar.triggers import TRIGGERS, Trigger

# What may stand where a field has one of these types.
TABLES: Mapping[Any, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        Attack: ("attack", ATTACKS),
        Repair: ("repair", REPAIRS),
        Guard: ("guard", GUARDS),
        Schedule: ("twins", TWINS),
        Selection: ("selection", SELECTIONS),
        Ranking: ("ranking", RANKINGS),
        Score: ("score", SCORES),
        Source: ("source", SOURCES),
        Trigger: ("trigger", TRIGGERS),
        ModelScan: ("scan", MODEL_SCANS),
        DataScan: ("scan of data", DATA_SCANS),
    }
)


def attack(text: str | Mapping[str, Any], **defaults: Any) -> Attack:
    """Make an attack, for example from ``"pgd:steps=40,eps=8/255"``.

    Args:
        text: name and settings.
        defaults: settings where the text gives none and the attack has such a field.

    Raises:
        ValueError: unknown name or field, or a value that the attack refuses.
    """
    made: Attack = method(Attack, text, "attack", defaults)
    return made


def network(text: str) -> tuple[str, dict[str, Any]]:
    """Name and fields of a built-in network, for example from ``"vgg:width=16"``.

    Raises:
        ValueError: unknown name or field, or a value of another sort.
    """
    settings: dict[str, Any] = dict(parsed(text, "network"))
    name = settings.pop("name")
    checks.known("network", name, MODELS)
    hints = get_type_hints(MODELS[name].__init__)
    for key in settings:
        checks.known(f"{name}: field", key, of_network(name))
    return name, {
        key: _value(hints[key], value, f"{name}.{key}") for key, value in settings.items()
    }


def of_network(name: str) -> dict[str, Any]:
    """The fields that text may set of a built-in network, with their defaults."""
    given = {"shape", "classes", "mean", "std"}  # by the data, or in Python only
    arguments = signature(MODELS[name]).parameters.values()
    return {one.name: one.default for one in arguments if one.name not in given}


def method(
    kind: Any, text: str | Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None
) -> Any:
    """Make a method of one of the kinds in ``TABLES``; ``where`` names the place in errors."""
    what, table = TABLES[kind]
    settings = parsed(text, where) if isinstance(text, str) else dict(text)
    if "name" not in settings:
        raise ValueError(f"{where}: expected a name, one of {', '.join(sorted(table))}")
    name = settings.pop("name")
    checks.known(what, str(name), table)
    known = settable(table[name])
    chosen = {key: value for key, value in (defaults or {}).items() if key in known}
    return build(table[name], {**chosen, **settings}, where)


def settable(cls: type[Any]) -> list[str]:
    """Names of the fields that text may set; what an attack learns from images is none."""
    return [field.name for field in fields(cls) if field.init and field.name != "learnt"]


def capped(settings: Mapping[str, Any], caps: Mapping[str, int]) -> dict[str, Any]:
    """Settings of a training or a method, none above the cap of its name."""
    return {key: min(value, caps[key]) if key in caps else value for key, value in settings.items()}


def parsed(text: str, where: str) -> dict[str, str]:
    """Split ``NAME:FIELD=VALUE,...`` into a dictionary with the key ``name`` for NAME."""
    name, _, rest = text.partition(":")
    settings = {"name": name.strip()}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            expected = "expected NAME or NAME:FIELD=VALUE,FIELD=VALUE"
            raise ValueError(f"{where} {text!r}: {expected}")
        settings[key.strip()] = value.strip()
    return settings


def build(cls: type[Any], settings: Mapping[str, Any], where: str) -> Any:
    """Make a frozen dataclass from settings; a nested one from a table, a method from its name."""
    hints = get_type_hints(cls)
    known = settable(cls)
    values = {}
    for key, value in settings.items():
        checks.known(f"{where}: setting", key, known)
        values[key] = _value(hints[key], value, f"{where}.{key}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is tuple and get_args(hint)[0] in TABLES:  # several methods, or one
        several = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(get_args(hint)[0], one, where) for one in several)
    if hint in TABLES:
        if not isinstance(value, str | Mapping):
            raise ValueError(f"{where}={value!r}: expected a name or a table with a name")
        return method(hint, value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}={value!r}: expected a table of settings")
        return build(hint, value, where)
    if isinstance(value, str) and hint in (float, float | None):
        optional = hint == float | None
        value = None if optional and value == "none" else checks.number(where, value)
    try:
        config = ConfigDict(strict=not isinstance(value, str))
        return TypeAdapter(hint, config=config).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"{where}={value!r}: {reason}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe.

    Raises:
        FileNotFoundError: with the path.
        ValueError: it is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a recipe in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected TOML; {error}") from error


def folder() -> Path:
    """Where the recipes are: in the repository, or inside the installed package."""
    package = Path(sys.modules["bezoar"].__file__ or "").resolve().parent
    beside = package.parents[1] / "recipes"
    return beside if beside.is_dir() else package / "recipes"


def find(name: str) -> Path:
    """The recipe of that name."""
    there = {path.stem: path for path in folder().glob("*.toml")}
    checks.known("recipe", name, there)
    return there[name]
