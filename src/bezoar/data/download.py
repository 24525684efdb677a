"""Checked downloads of the public sets; a file that is there already is never touched."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Remote:
    """One published file: where it is, and the MD5 sum that its publishers state."""

    url: str
    md5: str


def _remotes(name: str, base: str, sums: Mapping[str, str]) -> dict[str, Remote]:
    return {f"{name}/{file}": Remote(f"{base}/{file}", md5) for file, md5 in sums.items()}


# What can be downloaded, by its path under the data root.
REMOTES: Mapping[str, Remote] = MappingProxyType(
    _remotes(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    )
    | _remotes(
        "fashion-mnist",
        # Served without TLS only; the checksum stands for what arrives.
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    )
    | _remotes(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
    )
)


def fetch(root: Path, key: str) -> Path:
    """Path of the file ``root/key``, downloaded there if it is missing.

    The download goes into a temporary file beside its place, and takes that place when its MD5
    sum is right; otherwise it is removed. Progress goes to stderr if that is a terminal.

    Raises:
        FileNotFoundError: the file is missing and cannot be downloaded or written.
        ValueError: what was downloaded has another MD5 sum; nothing is kept.
    """
    path = root / key
    if path.exists():
        return path
    import pooch

    pooch.get_logger().setLevel("WARNING")  # an error is one line on stderr
    remote = REMOTES[key]
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        pooch.retrieve(
            remote.url,
            known_hash=f"md5:{remote.md5}",
            fname=path.name,
            path=path.parent,
            progressbar=sys.stderr.isatty(),
        )
    except OSError as error:
        _remove_empty(made)
        # A broken connection is an OSError too, without strerror.
        reason = error.strerror or type(error).__name__
        raise FileNotFoundError(
            f"{path}: no such file, and fetching {remote.url} failed ({reason}): expected {key} "
            f"in {root}; put it there, or name another folder with --data-root DIR or BEZOAR_DATA"
        ) from error
    except ValueError as error:
        _remove_empty(made)
        raise ValueError(
            f"{remote.url}: downloaded file has another checksum: expected md5 {remote.md5}; "
            f"nothing was kept; try again, or put the right file at {path}"
        ) from error
    return path


def _remove_empty(folders: Sequence[Path]) -> None:
    """Leave no folders behind for a mistyped data root; deepest first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
