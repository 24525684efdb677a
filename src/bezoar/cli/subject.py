"""From options to objects: the model, the data and the plan that a verb works on."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from bezoar import audit, checkpoints, checks, data, experiments, models, recipes
from bezoar.attacks import Attack
from bezoar.classifier import lowering, require, weights_hash
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.experiments import Plan
from bezoar.matrix import ACCESSES, Access
from bezoar.referee import Referee, metric_of
from bezoar.repairs import REPAIRS, Repair
from bezoar.runs import Run, default, provenance
from bezoar.triggers import Aim, AllToAll, AllToOne


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
        if not (height.isdecimal() and width.isdecimal()):
            raise ValueError(f"--image-size={image_size!r}: expected HEIGHTxWIDTH, e.g. 32x32")
        size = (int(height), int(width))
    elif shape is not None and name.startswith("folder:"):
        size = (shape[1], shape[2])
    return data.load(name, root=root, image_size=size)


def writable(out: Path, option: str = "--out", suffix: str = ".safetensors") -> None:
    """Require a place for a file, before hours are spent on what it is to hold.

    Raises:
        ValueError: another kind of file, or a folder that cannot be there.
    """
    if out.suffix != suffix or out.is_dir():
        raise ValueError(f"{option}={out}: expected a file NAME{suffix}")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(f"{option}={out}: {nearest}: expected a folder that can be written to")


def tested(named: Subject, whole: DataSet, count: int) -> ImageSet:
    """The test images that are attacked: the first ``count``, or all if 0.

    Raises:
        ValueError: the model takes images of another size, or has another number of classes.
    """
    images = whole.test.at_most(count)
    _require_fit(named, images)
    return images


def _require_fit(named: Subject, images: ImageSet) -> None:
    where = f"{named.about['file']} on {images.name}"
    if named.shape is not None and named.shape != images.shape:
        expected = f"expected {named.shape}, for which the network is built"
        raise ValueError(f"{where}: images of shape {images.shape}: {expected}")
    probe, _ = images.batch(slice(8))
    try:
        require(named.model, probe, len(images.classes))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def surrogate(paths: Sequence[Path], named: Subject, tested: ImageSet) -> Subject | None:
    """What an attacker asks who does not know the model: another one, or several as one.

    Raises:
        ValueError: one that does not fit the data, or has the weights of the model itself.
    """
    members = [subject(path, None, None) for path in paths]
    for path, member in zip(paths, members, strict=True):
        _require_fit(member, tested)
        if member.about["hash"] == named.about["hash"]:
            raise ValueError(f"--surrogate={path}: expected other weights than those of the model")
    if len(members) < 2:
        return members[0] if members else None
    model = models.Ensemble([member.model for member in members])
    return Subject(model, {"members": [member.about for member in members]}, tested.shape)


def opened(
    out: Path | None,
    verb: str,
    named: Subject,
    whole: DataSet,
    tested: ImageSet,
    seed: int,
    settings: dict[str, Any],
) -> Run:
    """Make the run folder, or take it up; last, when all options have been found good."""
    about = {
        "title": f"{named.about['file']} on {tested.name}",
        "seed": seed,
        "model": named.about,
        "data": experiments.described(whole, tested),
        "settings": settings,
    }
    return Run(out or default(verb, about), about, provenance(command()))


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
        chosen = [_chosen(text, radius) for text in attacks]
    else:
        chosen = audit.evasion(radius, radii)
    norms = {made.norm for made in chosen if made.eps in (radius, float("inf"))}
    if "linf" not in norms and len(norms) != 1:
        found = ", ".join(repr(made) for made in chosen)
        expected = f"expected one in Linf, or all in another norm, of radius --eps {radius:g}"
        raise ValueError(f"--attack {found}: {expected} or without a radius")
    norm = "linf" if "linf" in norms else norms.pop()
    for first, second in combinations(chosen, 2):
        metric = metric_of(first)
        if metric == metric_of(second):
            expected = f"expected one that tables call {metric}"
            raise ValueError(f"--attack or --curve: {first!r} and {second!r}: {expected}")
    free = any((made.norm, made.eps) == (norm, float("inf")) for made in chosen)
    radii = radii if free else []  # elsewhere the attacks say where the curve is known
    return Plan(eps=radius, attacks=chosen, floor=least, seed=seed, norm=norm, radii=radii)


def aimed(plan: Plan, text: str | None, model: nn.Module, images: ImageSet) -> Plan:
    """The plan with the target that was asked for, if any; each attack must be able to aim.

    Raises:
        ValueError: no such class, or an attack that cannot lead to one.
    """
    if text is None:
        return plan
    if text == "random":
        aimed = replace(plan, target="random")
    elif text.isdecimal() and text not in images.classes:
        aimed = replace(plan, target=int(text))
    else:
        checks.known("--target", text, [*images.classes, "random"])
        aimed = replace(plan, target=images.classes.index(text))
    for method in plan.attacks:
        Referee(method, model, images, seed=plan.seed, target=aimed.target)
    return aimed


def aim(text: str, whole: DataSet) -> Aim:
    """What the attacker of a backdoor wants of triggered images.

    Raises:
        ValueError: no such class.
    """
    if text.isdecimal() and text not in whole.classes:
        return AllToOne(int(text))
    checks.known("--target", text, [*whole.classes, "next"])
    return AllToOne(whole.classes.index(text)) if text in whole.classes else AllToAll()


def lowered(plan: Plan, model: nn.Module, images: ImageSet) -> Plan:
    """The plan with a search in bfloat16 first.

    Raises:
        ValueError: bfloat16 is no faster here.
    """
    x, _ = images.batch(slice(128))
    if (ratio := lowering(model, x)) > 1:
        found = f"passes in bfloat16 take {ratio:.1f} times as long as in float32 here"
        raise ValueError(f"--low-precision: {found}: expected them to be faster; leave it out")
    return replace(plan, low_precision=True)


def accesses(asked: Sequence[str], other: Path | None) -> list[Access]:
    """What the attackers of a comparison know; all but those that lack another network.

    Raises:
        ValueError: an access that there is not, or one that needs another network and has none.
    """
    for name in asked:
        checks.known("--access", name, ACCESSES)
    if "transfer" in asked and other is None:
        raise ValueError("--access=transfer: expected --surrogate FILE, the attacker's own network")
    every = [one for one in ACCESSES if one != "transfer" or other is not None]
    return [one for one in every if not asked or one in asked]


def once(inner: str | Sequence[str] | None, text: str) -> None:
    """Require that the attack inside a defence is named in one place."""
    if inner and "inner" in recipes.parsed(text, "--with"):
        given = inner if isinstance(inner, str) else " ".join(inner)
        raise ValueError(f"--inner={given!r}: expected once, but --with={text!r} has it too")


def _chosen(text: str, radius: float) -> Attack:
    """An attack at the radius, unless it usually has none and the text gives none."""
    made = recipes.attack(text)
    return made if made.eps == float("inf") else recipes.attack(text, eps=radius)


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
    once(inner, text)
    if "inner" in known:
        settings["inner"] = _at(inner or settings.get("inner", "pgd:steps=5"), eps)
    if "attack" in known:
        settings["attack"] = _at(settings.get("attack", "fgsm"), eps)
    made: Repair = recipes.method(Repair, settings, "--with")
    return made


def _at(text: str, eps: float) -> dict[str, Any]:
    """An attack's settings, with the radius ``eps`` where they give none."""
    return {"eps": eps, **recipes.parsed(text, "--inner")}
