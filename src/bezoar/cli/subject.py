"""From options to objects: the model, the data and the plan that a verb works on."""

import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from bezoar import audit, checkpoints, checks, data, models, recipes
from bezoar.classifier import weights_hash
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.experiments import Plan
from bezoar.repairs import REPAIRS, Repair


@dataclass(frozen=True)
class Subject:
    """A model and how it was named."""

    model: nn.Module
    about: dict[str, Any]
    shape: tuple[int, int, int] | None


def command() -> str:
    """The command line as it was typed, without the folder of the program."""
    return shlex.join(["bezoar", *sys.argv[1:]])


def threads(count: int) -> None:
    """Set torch's CPU threads, 0 leaves them as they are."""
    if count:
        import torch

        torch.set_num_threads(count)


def subject(path: Path | None, factory: str | None, weights: Path | None) -> Subject:
    """Load a model file of bezoar, or the user's own network.

    Raises:
        ValueError: not exactly one of the two ways was asked for.
        FileNotFoundError: no such file.
    """
    if (path is None) == (factory is None):
        raise ValueError("model: expected either MODEL or --model MODULE:FUNCTION --weights FILE")
    if path is not None:
        if weights is not None:
            raise ValueError(f"--weights={weights}: expected with --model only; MODEL has its own")
        loaded = checkpoints.load(path)
        about = {"kind": loaded.kind, "fields": dict(loaded.fields), "file": path.name}
        identity = {**about, "hash": weights_hash(loaded.model)}
        return Subject(loaded.model, identity, loaded.shape)
    if weights is None:
        raise ValueError("--weights: expected a file of weights beside --model")
    model = models.from_factory(factory or "").eval()
    checkpoints.load_weights(weights, model)
    named = {"kind": "user", "factory": factory, "file": weights.name}
    return Subject(model, {**named, "hash": weights_hash(model)}, None)


def dataset(
    name: str, root: Path | None, image_size: str | None, shape: tuple[int, int, int] | None = None
) -> DataSet:
    """Load a data set; the images of a folder get the size that the model takes."""
    size = None
    if image_size is not None:
        height, _, width = image_size.partition("x")
        if not (height.isdigit() and width.isdigit()):
            raise ValueError(f"--image-size={image_size!r}: expected HEIGHTxWIDTH, e.g. 32x32")
        size = (int(height), int(width))
    elif shape is not None and name.startswith("folder:"):
        size = (shape[1], shape[2])
    return data.load(name, root=root, image_size=size)


def tested(whole: DataSet, count: int) -> ImageSet:
    """The test images that are attacked: the first ``count``, or all if 0."""
    return whole.test.first(min(count, len(whole.test))) if count else whole.test


def plan(eps: str, curve: str, attacks: list[str] | None, floor: str, seed: int) -> Plan:
    """The attacks that were asked for, or those that every model gets."""
    radius = checks.number("--eps", eps)
    checks.in_range("--eps", radius, 0)
    least = checks.number("--floor", floor)
    checks.in_range("--floor", least, 0, 1)
    radii = [checks.number("--curve", part) for part in curve.split(",") if part.strip()]
    for value in radii:
        checks.in_range("--curve", value, 0)
    if attacks:
        chosen = [recipes.attack(text, eps=radius) for text in attacks]
        if all(made.eps != radius or made.norm != "linf" for made in chosen):
            found = ", ".join(repr(made) for made in chosen)
            raise ValueError(f"--attack {found}: expected one in Linf of radius --eps {radius:g}")
    else:
        chosen = audit.evasion(radius, radii)
    return Plan(eps=radius, attacks=chosen, floor=least, seed=seed)


def method(text: str, inner: str | None, eps: float, rounds: int, target: str) -> Repair:
    """The repair that was asked for, with the attacks inside it at the radius ``eps``."""
    settings: dict[str, Any] = dict(recipes.parsed(text, "--with"))
    judge = {"name": "pgd", "eps": eps, "steps": 10}
    stop = {"rounds": rounds, "target": checks.number("--target", target), "judge": judge}
    checks.known("repair", settings["name"], REPAIRS)
    kind: Any = REPAIRS[settings["name"]]
    known = {field.name for field in fields(kind)}
    if "stop" in known:
        settings.setdefault("stop", stop)
    if inner is not None and "inner" not in known:
        raise ValueError(f"--inner={inner!r}: expected with a repair that has an attack inside")
    within = {"name": "pgd", "eps": eps, "steps": 5} if inner is None else _at(inner, eps)
    if "inner" in known:
        settings.setdefault("inner", within)
    if "attack" in known:
        settings.setdefault("attack", {"name": "fgsm", "eps": eps})
    made: Repair = recipes.method(Repair, settings, "--with")
    return made


def _at(text: str, eps: float) -> dict[str, Any]:
    """An attack's settings, with the radius ``eps`` where they give none."""
    return {"eps": eps, **recipes.parsed(text, "--inner")}
