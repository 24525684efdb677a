"""Where images come from: sets known by name, and files of the user's own."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from bezoar import checks
from bezoar.data import cifar, digits, folder, gtsrb, idx, npz
from bezoar.data.imageset import DataSet, ImageSet

__all__ = ["PREFIXES", "SOURCES", "DataSet", "ImageSet", "Source", "data_root", "load"]


@dataclass(frozen=True)
class Source:
    """A set known by name: one line about it, and what loads it from (data root, seed)."""

    about: str
    load: Callable[[Path, int], DataSet]


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "digits": Source(
            "1,797 handwritten digits, 8x8 grey, inside scikit-learn",
            lambda _, seed: digits.load(seed),
        ),
        "mnist": Source("70,000 handwritten digits, 28x28 grey", partial(idx.load, "mnist")),
        "fashion-mnist": Source(
            "70,000 pieces of clothing, 28x28 grey", partial(idx.load, "fashion-mnist")
        ),
        "cifar10": Source("animals and vehicles, 32x32 colour", cifar.load),
        "gtsrb": Source("German traffic signs, 43 classes, 32x32 colour", gtsrb.load),
    }
)

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "folder:PATH": "images of your own, one sub-folder a class",
        "npz:PATH": "arrays of your own: images and labels",
    }
)


def load(
    name: str,
    *,
    root: Path | None = None,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
) -> DataSet:
    """Load a set of images in its three splits.

    An official test split stays the test split. Validation is cut from train, stratified by
    class: 1/6 for mnist and fashion-mnist (10,000 of 60,000), 10 % for cifar10, 15 % of the
    tracks for gtsrb. Sets without official splits (digits, and folders and files without them) are
    cut into 60 % train, 20 % validation and 20 % test.

    Args:
        name: a name in ``SOURCES``, ``folder:PATH`` or ``npz:PATH``.
        root: folder of the named sets; left out, see ``data_root``. A public set that is missing
            there is downloaded into it.
        seed: seed of the splits and of nothing else. Experiments keep the default, so that all
            share one split.
        image_size: (height, width) to resize the images of a ``folder:`` to.

    Raises:
        ValueError: unknown name, or damaged or unfit data.
        FileNotFoundError: the data are not there, and were not downloaded.

    >>> len(load("digits").test)
    359
    """
    prefix, colon, path = name.partition(":")
    if prefix == "folder" and colon:
        return folder.load(Path(path).expanduser(), seed, image_size)
    if image_size is not None:
        found = f"image_size={image_size!r} for {name}"
        raise ValueError(f"{found}: expected a folder:PATH; other images are not resized")
    if prefix == "npz" and colon:
        return npz.load(Path(path).expanduser(), seed)
    if name not in SOURCES:
        checks.known("data set", name, (*SOURCES, *PREFIXES))
    return SOURCES[name].load(data_root(root), seed)


def data_root(root: Path | None = None) -> Path:
    """Folder of the named sets: ``root``, else BEZOAR_DATA, else the user's cache folder."""
    if root is not None:
        return root
    if named := os.environ.get("BEZOAR_DATA"):
        return Path(named)
    import pooch

    return Path(pooch.os_cache("bezoar"))
