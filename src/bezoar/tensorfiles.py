"""Named tensors and one JSON header in a safetensors file.

Models and training states are such files; what their headers say is theirs. A reader sees the old
file or the new one, whole.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from bezoar.files import replacing

KEY = "bezoar"  # one metadata key only: with several, safetensors writes them in any order

PICKLED = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))  # first two bytes

Tensors = dict[str, Tensor]


def encoded(path: Path, head: Mapping[str, Any]) -> str:
    """The header of ``path`` as text.

    Raises:
        ValueError: it holds something else than finite JSON values.
    """
    try:
        return json.dumps(head, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: header: {error}: expected finite JSON values") from error


def write(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write tensors from any device and in any layout, and the text of a header.

    Raises:
        ValueError: at ``path`` is something else than a file.
        OSError: there is no folder for it, or no room; what was there before is still there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected the folder {path.parent}, found none; make it")
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    data = safetensors_bytes(plain, {KEY: text})
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)  # not by safetensors, whose error of a full disk is its own


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose own checks tie every size in it to the size of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: of another format, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        reason = f"{error}; it is damaged or of another format, get it again"
        with path.open("rb") as stream:
            if stream.read(2) in PICKLED:
                reason = "found a pickle or an archive, which may hold code; nothing of it was run"
        raise ValueError(f"{path}: expected a safetensors file; {reason}") from error


def read(file: Any) -> Tensors:
    """All tensors of an opened file, on the CPU; they hold on to the file."""
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def short(value: object) -> str:
    """What a stranger's file holds, as part of an error of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."
