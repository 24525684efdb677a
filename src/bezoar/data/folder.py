"""Images of the user's own: one sub-folder a class."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bezoar import checks
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.data.splits import hold_out, three_ways

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # no other parser sees the file, whatever its name
GREY = ("1", "L", "LA")
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# What Pillow raises for files that are cut off or damaged.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)

Size = tuple[int, int]
ByClass = dict[str, list[Path]]


def load(path: Path, seed: int, image_size: Size | None = None) -> DataSet:
    """Load ``path/CLASS/*.png`` or ``path/{train,test[,validation]}/CLASS/*.png``.

    Classes are the names of the sub-folders in sorted order, images are sorted by file name, and
    ``index`` counts through that list. PNG, JPEG, BMP, WebP, PPM and PGM of 8 bits are read; other
    files and hidden folders are passed over. Images are grey if all files of all splits are, RGB
    otherwise; transparency is dropped and EXIF orientation is ignored.

    Without official splits the images are cut into 60 % train, 20 % validation and 20 % test;
    with train and test only, 1/6 of train becomes validation.

    Args:
        path: the folder; links that lead out of it are refused.
        seed: seed of the split.
        image_size: (height, width) that every whole frame is resized to, bilinear with
            antialiasing, without crop and without keeping the aspect ratio. Left out, images keep
            their size, which must then be one.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty class, an unreadable image, several sizes, a link that leads out.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder: expected one sub-folder a class")
    for length in image_size or ():
        checks.at_least("image_size", length, 1)
    root = path.resolve()
    name = f"folder:{root.name}"
    lists = _lists(path, root)
    classes = tuple(next(iter(lists.values())))
    mode, size = _common([file for split in lists.values() for file in _flat(split)], image_size)
    sets = {
        split: _image_set(by_class, classes, name, mode, size) for split, by_class in lists.items()
    }
    if "test" not in sets:
        return three_ways(sets["train"], seed)
    if "validation" not in sets:
        return hold_out(sets["train"], sets["test"], 1 / 6, seed)
    named = {split: replace(part, name=f"{name}/{split}") for split, part in sets.items()}
    return DataSet(name, classes, **named)


def _lists(path: Path, root: Path) -> dict[str, ByClass]:
    """Files of each split by class, train first; without official splits all are ``train``."""
    folders = {folder.name: folder for folder in _folders(path, root)}
    if not {"train", "test"} & set(folders):
        return {"train": _by_class(path, root)}
    if "val" in folders and "validation" not in folders:
        folders["validation"] = folders.pop("val")
    for split in ("train", "test"):
        if split not in folders:
            raise ValueError(
                f"{path}: no folder {split!r}: expected both train and test, or neither"
            )
    for split in folders:
        if split not in ("train", "validation", "test"):
            expected = "expected train, test and at most one of validation and val"
            raise ValueError(f"{path / split}: folder beside train and test: {expected}")
    lists = {"train": _by_class(folders.pop("train"), root)}
    for split, folder in folders.items():
        lists[split] = _by_class(folder, root)
        unknown = sorted(set(lists[split]) - set(lists["train"]))
        if unknown:
            known = ", ".join(lists["train"])
            raise ValueError(
                f"{folder / unknown[0]}: unknown class: expected those of train, {known}"
            )
    return lists


def _by_class(folder: Path, root: Path) -> ByClass:
    found = {}
    for class_folder in _folders(folder, root):
        entries = sorted(class_folder.iterdir(), key=lambda entry: entry.name)
        files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
        for file in files:
            _require_inside(file, root)
        if not files:
            suffixes = " ".join(SUFFIXES)
            raise ValueError(
                f"{class_folder}: no image inside: expected at least one of {suffixes}"
            )
        found[class_folder.name] = files
    if not found:
        raise ValueError(f"{folder}: no folder inside: expected one sub-folder a class")
    return found


def _folders(path: Path, root: Path) -> list[Path]:
    entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for folder in folders:
        _require_inside(folder, root)
    return folders


def _require_inside(entry: Path, root: Path) -> None:
    if entry.is_symlink() and not entry.resolve().is_relative_to(root):
        raise ValueError(f"{entry}: link that leads out of {root}: refused; copy what it points to")


def _flat(by_class: ByClass) -> list[Path]:
    return [file for files in by_class.values() for file in files]


def _common(files: list[Path], image_size: Size | None) -> tuple[str, Size]:
    """The mode, L or RGB, and the size (height, width) that all images are brought to."""
    mode, sizes = "L", dict[Size, Path]()
    for file in files:
        with _opened(file) as image:
            if image.mode not in GREY:
                mode = "RGB"
            sizes.setdefault((image.height, image.width), file)
    if image_size is not None:
        return mode, image_size
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        found = f"images of {_text(one)} ({first}) and {_text(other)} ({second})"
        raise ValueError(f"{found}: expected one size; resize all with --image-size {_text(one)}")
    return mode, next(iter(sizes))


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _image_set(
    by_class: ByClass, classes: tuple[str, ...], name: str, mode: str, size: Size
) -> ImageSet:
    files = _flat(by_class)
    channels = 1 if mode == "L" else 3
    pixels = np.empty((len(files), channels, *size), dtype=np.uint8)
    for row, file in enumerate(files):
        pixels[row] = _decoded(file, mode, size).reshape(*size, channels).transpose(2, 0, 1)
    labels = [classes.index(kind) for kind, of_kind in by_class.items() for _ in of_kind]
    return ImageSet(
        pixels=torch.from_numpy(pixels),
        labels=torch.tensor(labels),
        index=np.arange(len(files)),
        classes=classes,
        name=name,
    )


def _decoded(file: Path, mode: str, size: Size) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = size
    with _opened(file) as image:
        # By way of RGBA: a palette may carry transparency.
        image = (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert(mode)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)


@contextmanager
def _opened(file: Path) -> Iterator["Image.Image"]:
    """Open an image for reading; whatever is wrong with it is one kind of error."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if image.mode not in (*GREY, *COLOUR):
                    raise ValueError(f"mode {image.mode}")
                yield image
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = str(error) or type(error).__name__
        expected = "expected a whole PNG, JPEG, BMP, WebP, PPM or PGM of 8 bits"
        raise ValueError(f"{file}: unreadable image ({reason}): {expected}") from error
