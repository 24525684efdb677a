"""CIFAR-10 (Krizhevsky, 2009): the official Python batches, or ``.npz`` files.

The official batches are pickles. They are read by an unpickler that knows two names, both stand-ins
of this module that store what they are given: no code of the file's choosing can run.
"""

import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bezoar.data import npz
from bezoar.data.download import fetch
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.data.splits import hold_out

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SHAPE = (3, 32, 32)
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)

# An official batch has 31 MB.
LARGEST = 2**26

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load(root: Path, seed: int) -> DataSet:
    """Load ``root/cifar10``. Validation: 10 % of train.

    Looked for in this order: ``train.npz`` with ``test.npz``; the folder ``cifar-10-batches-py``;
    the archive ``cifar-10-python.tar.gz``, read without unpacking it to disk; the download of it.

    Raises:
        FileNotFoundError: nothing is there, and the download failed.
        ValueError: a file is damaged or holds something else.
    """
    folder = root / "cifar10"
    packed = {split: folder / f"{split}.npz" for split in ("train", "test")}
    if all(path.is_file() for path in packed.values()):
        train, test = (npz.image_set(path, "cifar10") for path in packed.values())
    else:
        place = folder / FOLDER
        here = place.is_dir()
        batches = dict(
            _in_folder(place) if here else _in_archive(fetch(root, f"cifar10/{ARCHIVE}"))
        )
        missing = [name for name in (*TRAIN, *TEST) if name not in batches]
        if missing:
            raise FileNotFoundError(
                f"{folder}: no {missing[0]}: expected {', '.join(TRAIN + TEST)}"
            )
        train, test = (_image_set([batches[n] for n in names]) for names in (TRAIN, TEST))
    return hold_out(train, test, 0.1, seed)


def read_batch(content: bytes, where: str) -> Batch:
    """Pixels ``(N, 3, 32, 32)`` and labels ``(N,)`` of an official batch.

    Args:
        content: the bytes of the file.
        where: its name, for messages.

    Raises:
        ValueError: the pickle names anything but a numpy array (refused before it is called), or
            is not a dictionary of ``data`` and ``labels`` of fitting sizes.
    """
    try:
        for _, argument, _ in pickletools.genops(content):
            # A memo slot far away would make the unpickler allocate all slots before it.
            if isinstance(argument, int) and abs(argument) > len(content):
                raise ValueError(f"number {argument} is out of place")
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # hostile bytes can make an unpickler raise anything
        raise ValueError(
            f"{where}: refused ({error}): expected an official CIFAR-10 batch"
        ) from error
    data, labels = (_field(batch, key, where) for key in (b"data", b"labels"))
    size = int(np.prod(SHAPE))
    if not (isinstance(data, _Array) and isinstance(data.bytes, bytes) and data.bytes):
        raise ValueError(f"{where}: data of {type(data).__name__}: expected an array of bytes")
    count, rest = divmod(len(data.bytes), size)
    if rest or data.shape != (count, size) or data.kind not in ("u1", "|u1"):
        found = f"{len(data.bytes)} bytes as {data.shape} of {data.kind}"
        raise ValueError(f"{where}: {found}: expected (N, {size}) of u1")
    if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise ValueError(f"{where}: labels of {type(labels).__name__}: expected a list of integers")
    if len(labels) != count or not all(0 <= label < len(CLASSES) for label in labels):
        raise ValueError(f"{where}: {len(labels)} labels: expected {count}, from 0 to 9")
    flat = np.frombuffer(data.bytes, dtype=np.uint8)
    pixels = flat.reshape((count, size), order="F" if data.by_column else "C")
    return pixels.reshape(count, *SHAPE), np.array(labels, dtype=np.int64)


class _Array:
    """Stands in for a numpy array: keeps the state, interprets nothing."""

    def __init__(self, *_: object) -> None:
        self.shape: object = None
        self.kind: object = None
        self.by_column: object = None
        self.bytes: object = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, kind, self.by_column, self.bytes = state
        self.kind = kind.name


class _Kind:
    """Stands in for a numpy dtype."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        """Byte order and flags mean nothing for single bytes."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray")):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Kind
        raise ValueError(f"it names {module}.{name}")


def _field(batch: object, key: bytes, where: str) -> object:
    if not isinstance(batch, dict) or key not in batch:
        raise ValueError(
            f"{where}: no {key.decode()!r} inside: expected an official CIFAR-10 batch"
        )
    return batch[key]


def _in_folder(folder: Path) -> Iterator[tuple[str, Batch]]:
    for name in (*TRAIN, *TEST):
        path = folder / name
        if path.is_file():
            _require_size(path.stat().st_size, str(path))
            yield name, read_batch(path.read_bytes(), str(path))


def _in_archive(path: Path) -> Iterator[tuple[str, Batch]]:
    wanted = {f"{FOLDER}/{name}": name for name in (*TRAIN, *TEST)}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if member.name in wanted and stream is not None:
                    where = f"{path}: {member.name}"
                    _require_size(member.size, where)
                    yield wanted[member.name], read_batch(stream.read(), where)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(
            f"{path}: damaged archive ({error}): expected {ARCHIVE}; delete it"
        ) from error


def _require_size(size: int, where: str) -> None:
    if size > LARGEST:
        raise ValueError(f"{where}: {size} bytes: expected at most {LARGEST}")


def _image_set(batches: list[Batch]) -> ImageSet:
    labels = np.concatenate([numbers for _, numbers in batches])
    return ImageSet(
        pixels=torch.from_numpy(np.concatenate([pixels for pixels, _ in batches])),
        labels=torch.from_numpy(labels),
        index=np.arange(len(labels)),
        classes=CLASSES,
        name="cifar10",
    )
