"""What the run folder of a backdoor repair holds beside what every run has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bezoar.report.record import CASES, FORMAT, Pixels, columns, json_object, pixels
from bezoar.results import Rate

Classes = NDArray[np.int64]
Answered = Mapping[str, Classes]  # by case


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the model said of the test images, before and after the repair.

    Attributes:
        path: the file; the pictures stay in it.
        label: true classes of all clean images, ``(N,)``.
        clean: classes said of them, by case.
        index: positions of the triggered images in the source, ``(M,)``, increasing.
        true: their true classes, ``(M,)``.
        wanted: classes that the attacker wants of them, ``(M,)``.
        plain: classes said of them without the trigger, by case.
        stamped: classes said of them with it, by case.
        shown: places among the triggered images of those whose pictures are kept, ``(K,)``.
    """

    path: Path
    label: Classes
    clean: Answered
    index: Classes
    true: Classes
    wanted: Classes
    plain: Answered
    stamped: Answered
    shown: Classes

    def named(self, case: str) -> NDArray[np.bool_]:
        """Which clean images are named rightly, ``(N,)``."""
        right: NDArray[np.bool_] = self.clean[case] == self.label
        return right

    def led(self, case: str) -> NDArray[np.bool_]:
        """Which triggered images are where the attacker wants, ``(M,)``."""
        there: NDArray[np.bool_] = self.stamped[case] == self.wanted
        return there

    def stood(self, case: str, *, trigger: bool = True) -> NDArray[np.bool_]:
        """Which of the same images are named rightly, with the trigger or without, ``(M,)``."""
        right: NDArray[np.bool_] = (self.stamped if trigger else self.plain)[case] == self.true
        return right

    def rates(self, case: str) -> dict[str, Rate]:
        """Clean accuracy, ASR and RA, counted."""
        held = {"clean": self.named(case), "asr": self.led(case), "ra": self.stood(case)}
        return {metric: Rate(int(each.sum()), len(each)) for metric, each in held.items()}

    def picture(self, k: int) -> tuple[Pixels, Pixels]:
        """The k-th picture that is kept, clean and triggered, ``(C, H, W)`` each.

        Raises:
            ValueError: it is damaged, or the two are of different shapes.
        """
        x, stamped = pixels(self.path, "x", k), pixels(self.path, "x_stamped", k)
        if x.shape != stamped.shape:
            found = f"{self.path}: x_stamped of shape {stamped.shape}"
            raise ValueError(f"{found}: expected {x.shape}, the shape of x")
        return x, stamped


@dataclass(frozen=True)
class Patch:
    """A stand-in for the trigger that a repair found: a pattern that lies over the image.

    Attributes:
        mask: how much of it does, ``(1, H, W)`` or ``(C, H, W)`` in [0, 1].
        pattern: ``(C, H, W)`` in [0, 1].
    """

    mask: Pixels
    pattern: Pixels

    def stamp(self, x: Pixels) -> Pixels:
        """The image with it."""
        return np.asarray((1 - self.mask) * x + self.mask * self.pattern, dtype=np.float32)


@dataclass(frozen=True)
class Perturbation:
    """A stand-in for the trigger that a repair found: what is added, ``(C, H, W)`` in [-1, 1]."""

    delta: Pixels

    def stamp(self, x: Pixels) -> Pixels:
        """The image with it."""
        return np.asarray(np.clip(x + self.delta, 0, 1), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A filter that went.

    Attributes:
        layer: number of its convolution, in the order of a pass.
        name: what the network calls the convolution.
        number: of the filter in it.
        channels: how many the convolution had.
    """

    layer: int
    name: str
    number: int
    channels: int

    def __str__(self) -> str:
        return f"{self.name or f'convolution {self.layer}'}/{self.number}"


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What silencing one filter after the other did, on some of the test images.

    Attributes:
        gone: the filters, in the order in which they went.
        clean: clean accuracy before, after each of them, and of the repaired model.
        asr: attack success rate likewise.
    """

    gone: tuple[Gone, ...]
    clean: tuple[Rate, ...]
    asr: tuple[Rate, ...]


@dataclass(frozen=True, kw_only=True)
class Cured:
    """The files of a backdoor repair; ``found`` and ``path`` are ``None`` where it has none."""

    answers: Answers
    found: Patch | Perturbation | None
    path: Pruning | None


def of_backdoor(folder: Path) -> bool:
    """Whether the run is one of ``bezoar repair --backdoor``."""
    settings = json_object(folder / "run.json").get("settings")
    return isinstance(settings, dict) and {"backdoor", "repair"} <= set(settings)


def read(folder: Path) -> Cured:
    """Read what belongs to the backdoor.

    Raises:
        FileNotFoundError: the answers are missing.
        ValueError: a file is damaged, or holds values that cannot be. The file is named.
    """
    answers = _answers(folder / "backdoor.safetensors")
    found, path = folder / "found.safetensors", folder / "path.json"
    shape = answers.picture(0)[0].shape
    return Cured(
        answers=answers,
        found=_found(found, shape) if found.exists() else None,
        path=_path(path) if path.exists() else None,
    )


def _answers(path: Path) -> Answers:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; run the command in run.json again")
    clean = columns(path, ("index", "label", "clean_before", "clean_after"))
    stamped = columns(path, ("stamped_index", "wanted", "stamped_before", "stamped_after"))
    shown = columns(path, ("shown",))["shown"]
    every, index, label = clean["index"], stamped["stamped_index"], clean["label"]
    for name, column in (("index", every), ("stamped_index", index), ("shown", shown)):
        if (np.diff(column) <= 0).any():
            raise ValueError(f"{path}: {name}: expected increasing positions")
    rows = np.searchsorted(every, index)
    if not np.isin(index, every).all():
        raise ValueError(f"{path}: stamped_index: expected positions that index has")
    if not 0 <= shown[0] <= shown[-1] < len(index):
        raise ValueError(f"{path}: shown: expected places from 0 to {len(index) - 1}")
    if (stamped["wanted"] == label[rows]).any():
        raise ValueError(f"{path}: wanted: expected no image of the class that is wanted of it")
    said = {case: clean[f"clean_{case}"] for case in CASES}
    return Answers(
        path=path,
        label=label,
        clean=said,
        index=index,
        true=label[rows],
        wanted=stamped["wanted"],
        plain={case: column[rows] for case, column in said.items()},
        stamped={case: stamped[f"stamped_{case}"] for case in CASES},
        shown=shown,
    )


def _found(path: Path, shape: tuple[int, ...]) -> Patch | Perturbation | None:
    try:
        with safe_open(path, framework="numpy") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, OSError) as error:
        raise ValueError(f"{path}: expected safetensors, found {error}") from error
    for name in sorted(set(held) & {"mask", "pattern", "delta"}):
        part, least = held[name], -1 if name == "delta" else 0
        shapes = {shape, (1, *shape[1:])} if name == "mask" else {shape}
        if part.shape not in shapes or part.dtype.kind != "f":
            what = f"{path}: {name} of shape {part.shape} and dtype {part.dtype}"
            raise ValueError(f"{what}: expected {shape} of floats, as the images")
        if not (part.min() >= least and part.max() <= 1):  # also true for NaN
            raise ValueError(f"{path}: {name}: expected values in [{least}, 1]")
    parts: dict[str, Any] = {name: part.astype(np.float32) for name, part in held.items()}
    if {"mask", "pattern"} <= set(parts):
        return Patch(parts["mask"], parts["pattern"])
    return Perturbation(parts["delta"]) if "delta" in parts else None


def _path(path: Path) -> Pruning:
    match json_object(path):
        case {
            "format": version,
            "images": images,
            "triggered": triggered,
            "gone": list() as gone,
            "clean": list() as clean,
            "asr": list() as asr,
        } if version == FORMAT and gone and len(clean) == len(asr) == len(gone) + 2:
            try:
                return Pruning(
                    gone=tuple(_gone(one) for one in gone),
                    clean=tuple(Rate(_count(one), _count(images)) for one in clean),
                    asr=tuple(Rate(_count(one), _count(triggered)) for one in asr),
                )
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    expected = f"expected format {FORMAT}, filters, and counts before, after each and at the end"
    raise ValueError(f"{path}: {expected}; remove it and run the command in run.json again")


def _gone(one: object) -> Gone:
    match one:
        case {
            "layer": layer,
            "name": str() as name,
            "filter": number,
            "channels": channels,
        } if _count(number) < _count(channels):
            return Gone(layer=_count(layer), name=name, number=number, channels=channels)
    raise ValueError(f"gone={one!r:.160}: expected layer, name, filter and channels")


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"count={value!r:.80}: expected a whole number of at least 0")
    return value
