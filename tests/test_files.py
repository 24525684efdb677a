"""Files that are there whole or not at all, also on a disk that is full."""

import os
import resource
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from bezoar.files import read_json, replacing, write_json, write_text


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 64 kB: the writes themselves fail, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_half(path, error):
    with replacing(path) as unfinished:
        unfinished.write_text("half of the n")
        raise error


def no_room(*paths):
    raise OSError(ENOSPC, os.strerror(ENOSPC), str(paths[0]))


def test_the_file_appears_only_when_the_block_is_done(tmp_path):
    with replacing(tmp_path / "deep" / "file") as unfinished:
        unfinished.write_text("half")
        assert not (tmp_path / "deep" / "file").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "file", "old")
    with pytest.raises(error):
        write_half(tmp_path / "file", error)
    assert (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(OSError, match="too large"):
        write_text(tmp_path / "file", "n" * 100_000)
    assert (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_room_for_the_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_comes_back_as_it_was(tmp_path):
    value = {"name": "Ü", "rates": [0.1, 1], "none": None, "deep": {"yes": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("a")])
def test_what_is_no_json_is_refused_and_leaves_nothing(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "folder" / "a.json", {"value": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "truncated", "not text", "too deep", "too long a number"],
)
def test_a_damaged_file_is_a_value_error_that_names_it(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: expected JSON"):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
