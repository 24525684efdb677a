"""MNIST and its kind: IDX files, plain or packed with gzip.

An IDX file is a big-endian header (magic number, then one 32-bit size a dimension) and unsigned
bytes in row-major order. Format: LeCun, Cortes and Burges, "The MNIST database", 1998.
"""

import math
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bezoar.data.download import fetch
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.data.splits import hold_out

# Third byte: unsigned bytes; fourth byte: number of dimensions.
IMAGES = 0x00000803
LABELS = 0x00000801

# The largest published set in this format (EMNIST by class) has 0.64 GB.
LARGEST = 2**30

CLASSES: Mapping[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# BLAKE2b-128 of the unpacked contents after the header: files packed again by someone else are
# still the same data.
CONTENTS: Mapping[str, str] = {
    "mnist/train-images-idx3-ubyte": "7e07c4c58ece76e576f1071d4d33944a",
    "mnist/train-labels-idx1-ubyte": "c142f118bb9591d78225d991fff0988b",
    "mnist/t10k-images-idx3-ubyte": "b70ae312f9777b9f7603110bd42e5b1c",
    "mnist/t10k-labels-idx1-ubyte": "0feb7208c89c7a7f1eecc042eddac46b",
    "fashion-mnist/train-images-idx3-ubyte": "26c384e2db843a311630880f57264250",
    "fashion-mnist/train-labels-idx1-ubyte": "372ac19362f2425103e5082d13e71e66",
    "fashion-mnist/t10k-images-idx3-ubyte": "b59ffad7e66a8ef4ac54dc5788c69f7e",
    "fashion-mnist/t10k-labels-idx1-ubyte": "36a6875013fe680369ab320bd2ad1fe9",
}


def read(path: Path, magic: int) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: plain or gzip; told apart by the first two bytes, not by the name.
        magic: ``IMAGES`` gives ``(N, H, W)``, ``LABELS`` gives ``(N,)``.

    Raises:
        ValueError: another magic number, a damaged gzip file, or not exactly as many bytes as
            the header says.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes: expected at most {LARGEST}")
    packed = path.read_bytes()
    zipped = packed[:2] == b"\x1f\x8b"
    header_size = 4 * (1 + magic % 256)
    head = _unpacked(path, packed, header_size) if zipped else packed[:header_size]
    found, *shape = (int.from_bytes(head[at : at + 4], "big") for at in range(0, header_size, 4))
    if found != magic:
        raise ValueError(f"{path}: magic number {found:#010x}: expected {magic:#010x} (IDX)")
    if len(head) < header_size or not all(shape):
        raise ValueError(f"{path}: header of sizes {shape}: expected {magic % 256}, all above 0")
    size = header_size + math.prod(shape)
    if size > LARGEST:
        raise ValueError(f"{path}: header promises {size} bytes: expected at most {LARGEST}")
    # One byte more than promised shows that there is more, and a bomb is unpacked no further.
    whole = _unpacked(path, packed, size + 1) if zipped else packed
    if len(whole) != size:
        amount = "more" if len(whole) > size else "fewer"
        raise ValueError(f"{path}: {amount} bytes than sizes {shape} say: expected {size}")
    return np.frombuffer(whole, dtype=np.uint8, offset=header_size).reshape(shape)


def image_set(images: Path, labels: Path, classes: tuple[str, ...], name: str) -> ImageSet:
    """Read a pair of IDX files; images become ``(N, 1, H, W)`` uint8."""
    pixels, numbers = read(images, IMAGES), read(labels, LABELS)
    if len(pixels) != len(numbers):
        found = f"{images}: {len(pixels)} images"
        raise ValueError(f"{found}: expected {len(numbers)}, as many as labels in {labels.name}")
    return ImageSet(
        pixels=torch.from_numpy(pixels.copy()).unsqueeze(1),
        labels=torch.from_numpy(numbers.astype(np.int64)),
        index=np.arange(len(numbers)),
        classes=classes,
        name=name,
    )


def load(name: str, root: Path, seed: int) -> DataSet:
    """Load ``root/name``; what is missing there is downloaded. Validation: 1/6 of train.

    Raises:
        FileNotFoundError: a file is missing and could not be downloaded.
        ValueError: a file is damaged, or its contents are not those that were published.
    """
    train, test = (_original(name, root, *FILES[split]) for split in ("train", "test"))
    return hold_out(train, test, 1 / 6, seed)


def _original(name: str, root: Path, images: str, labels: str) -> ImageSet:
    image_file, label_file = (_find(root, f"{name}/{file}") for file in (images, labels))
    found = image_set(image_file, label_file, CLASSES[name], name)
    _require_original(image_file, f"{name}/{images}", found.pixels)
    _require_original(label_file, f"{name}/{labels}", found.labels.to(torch.uint8))
    return found


def _find(root: Path, key: str) -> Path:
    plain = root / key
    return plain if plain.is_file() else fetch(root, f"{key}.gz")


def _require_original(path: Path, key: str, contents: Tensor) -> None:
    found = blake2b(contents.numpy().tobytes(), digest_size=16).hexdigest()
    if found != CONTENTS[key]:
        hint = "load data of your own as npz:PATH or folder:PATH"
        raise ValueError(f"{path}: checksum {found} of contents: expected {CONTENTS[key]}; {hint}")


def _unpacked(path: Path, packed: bytes, size: int) -> bytes:
    """First ``size`` bytes of a gzip file, fewer where it has fewer."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        whole = unzip.decompress(packed, size)
    except zlib.error as error:
        raise ValueError(
            f"{path}: damaged gzip file ({error}): expected IDX; fetch it anew"
        ) from None
    if len(whole) < size and not unzip.eof:
        raise ValueError(f"{path}: gzip file ends early: expected its end mark; fetch it anew")
    return whole
