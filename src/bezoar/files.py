"""Files that are there whole or not at all."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; rename it into place when all went well.

    Whatever goes wrong (a full disk, Ctrl-C, a power cut) leaves what was at ``path`` before, and
    nothing else. What a killed process left unfinished goes with the next write of ``path``.
    Processes that write the same file at once must run on one machine.

    Raises:
        ValueError: at ``path`` is something that a file must not replace: a folder, a device.
        OSError: it cannot be written; the error names ``path`` where it named no file.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a regular file, or nothing yet; give another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut may keep the rename and lose the content
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    _remove_leftovers(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON, readable and without NaN."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: with the path.
        ValueError: it holds something else than JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # no text, no JSON, too deep, a huge number
        raise ValueError(f"{path}: expected JSON; {error}") from error


def _remove_leftovers(path: Path) -> None:
    """Remove unfinished files for ``path`` whose writers are no more."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([1-9][0-9]*)\.tmp")
    with suppress(OSError):  # the file itself is written; litter is no reason to fail
        for name in os.listdir(path.parent):
            if (found := pattern.fullmatch(name)) and not _alive(int(found[1])):
                path.with_name(name).unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether a process runs, as far as can be known."""
    if os.name != "posix":
        return True  # elsewhere signal 0 is no mere question: it ends the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # someone else's; a number that no process has
        return True
    return True
