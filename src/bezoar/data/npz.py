"""Images in ``.npz`` files, read without ``numpy.load``: every header is checked against the file.

Keys: ``images`` uint8, or floating point in [0, 1], ``(N, H, W)``, ``(N, H, W, C)`` or
``(N, C, H, W)`` with C 1 or 3; ``labels`` integers ``(N,)``; optionally ``class_names`` strings
``(K,)`` and ``track`` integers ``(N,)``, which names the images that must stay together. A file
with official splits has ``x_train``, ``y_train``, ``x_test``, ``y_test`` instead of the first two.
"""

import math
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from bezoar.data.imageset import DataSet, ImageSet
from bezoar.data.splits import hold_out, three_ways

Arrays = dict[str, NDArray[Any]]

# A file may unpack to this many bytes, or to this many times its own size, whichever is more.
FREE = 2**30
RATIO = 100


def arrays(path: Path, keys: Iterable[str]) -> Arrays:
    """Read those of ``keys`` that the file has: integers, floats or strings, never objects.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an ``.npz`` file, damaged, an array of objects (those are pickles), or
            sizes that the file does not have the bytes for.
    """
    found: Arrays = {}
    try:
        with path.open("rb") as file, ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            for key in keys:
                info = members.get(f"{key}.npy")
                if info is None:
                    continue
                _require_sane(info, path)
                with archive.open(info) as member:
                    found[key] = _array(member, info.file_size, f"{path}: {key}")
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path}: damaged file ({reason}): expected .npz; fetch it anew"
        ) from error
    return found


def image_set(path: Path, name: str) -> ImageSet:
    """Read a file with ``images`` and ``labels``."""
    found = arrays(path, ("images", "labels", "class_names", "track"))
    _require_keys(path, found, ("images", "labels"))
    return _image_set(path, name, found, "images", "labels", _classes(path, found, ("labels",)))


def load(path: Path, seed: int) -> DataSet:
    """Read a file of the user's own.

    With ``images`` and ``labels`` it is cut into 60 % train, 20 % validation and 20 % test. With
    ``x_train``, ``y_train``, ``x_test``, ``y_test`` the test split stays and 1/6 of train becomes
    validation.
    """
    keys = ("x_train", "y_train", "x_test", "y_test")
    name = f"npz:{path.name}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: expected an .npz file; check npz:PATH")
    found = arrays(path, (*keys, "class_names"))
    if not set(keys) & set(found):
        return three_ways(image_set(path, name), seed)
    _require_keys(path, found, keys)
    classes = _classes(path, found, ("y_train", "y_test"))
    train = _image_set(path, name, found, "x_train", "y_train", classes)
    test = _image_set(path, name, found, "x_test", "y_test", classes)
    return hold_out(train, test, 1 / 6, seed)


def _require_keys(path: Path, found: Arrays, keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        layouts = "images and labels, or x_train, y_train, x_test and y_test"
        raise ValueError(f"{path}: no {missing[0]!r} inside: expected {layouts}")


def _require_sane(info: ZipInfo, path: Path) -> None:
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(f"{path}: {info.filename} packed in an unusual way: expected deflate")
    limit = max(FREE, RATIO * path.stat().st_size)
    if info.file_size > limit:
        found = f"{path}: {info.filename} unpacks to {info.file_size} bytes"
        raise ValueError(f"{found}: expected at most {limit} from a file of this size")


def _array(member: IO[bytes], size: int, where: str) -> NDArray[Any]:
    """One array in the ``.npy`` format, of a member that claims ``size`` bytes."""
    try:
        version = npy.read_magic(member)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"format version {version}")
        shape, by_column, dtype = readers[version](member)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}: unreadable .npy header ({reason}): expected numbers") from error
    if dtype.hasobject:
        raise ValueError(
            f"{where}: array of objects refused: expected numbers; nothing is unpickled"
        )
    if dtype.kind not in "uifU" or dtype.itemsize == 0:
        raise ValueError(f"{where} of dtype {dtype}: expected integers, floats or strings")
    promised = math.prod(shape) * dtype.itemsize
    there = size - member.tell()
    if min(shape, default=0) < 0 or promised != there:
        found = f"{where}: header promises shape {shape} in {promised} bytes"
        raise ValueError(f"{found}: expected {there} bytes, as many as the file has")
    flat = np.frombuffer(bytearray(member.read(promised)), dtype=dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if by_column else "C")


def _classes(path: Path, found: Arrays, keys: Iterable[str]) -> tuple[str, ...]:
    if "class_names" in found:
        names = found["class_names"]
        if names.ndim != 1 or names.dtype.kind != "U":
            raise ValueError(f"{path}: class_names of shape {names.shape}: expected (K,) strings")
        # numpy makes strings without looking; a code point that does not exist would crash it.
        codes = np.frombuffer(names.tobytes(), np.dtype("u4").newbyteorder(names.dtype.byteorder))
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{path}: class_names with code point {codes.max()}: expected text")
        return tuple(names.tolist())
    labels = [_labels(found[key], f"{path}: {key}") for key in keys]
    highest = max(int(part.max()) for part in labels)
    # Names are made up to the highest label, so a lying label must not make billions of them.
    if highest >= sum(map(len, labels)):
        expected = "expected fewer classes than images"
        raise ValueError(f"{path}: label {highest}: {expected}; number the classes from 0")
    return tuple(map(str, range(highest + 1)))


def _image_set(
    path: Path, name: str, found: Arrays, images: str, labels: str, classes: tuple[str, ...]
) -> ImageSet:
    pixels = _pixels(found[images], f"{path}: {images}")
    track = found.get("track")
    if track is not None and track.dtype.kind not in "iu":
        raise ValueError(f"{path}: track of dtype {track.dtype}: expected integers")
    return ImageSet(
        pixels=pixels,
        labels=torch.from_numpy(_labels(found[labels], f"{path}: {labels}")),
        index=np.arange(len(pixels)),
        classes=classes,
        name=name,
        groups=track,
    )


def _labels(labels: NDArray[Any], where: str) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        found = f"{where} of shape {labels.shape} and dtype {labels.dtype}"
        raise ValueError(f"{found}: expected (N,) integers, at least one")
    return labels.astype(np.int64)


def _pixels(images: NDArray[Any], where: str) -> Tensor:
    """Images of any accepted layout as ``(N, C, H, W)`` uint8 or float32."""
    found = f"{where} of shape {images.shape} and dtype {images.dtype}"
    if images.dtype.kind != "f" and images.dtype != np.uint8:
        raise ValueError(f"{found}: expected uint8, or float in [0, 1]")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"{found}: expected (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # what overflows is refused as outside [0, 1]
        return torch.from_numpy(np.ascontiguousarray(images, dtype=kind))
