"""Files that are there whole or not at all, also on a disk that is full."""

import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import pytest

from bezoar.files import read_json, replacing, write_json, write_text


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def write_half(path, error):
    with replacing(path) as unfinished:
        unfinished.write_text("half of the n")
        raise error


def no_room(*paths):
    raise OSError(ENOSPC, os.strerror(ENOSPC), str(paths[0]))


def no_room_somewhere(*arguments):
    raise OSError(ENOSPC, os.strerror(ENOSPC))


def link_to_a_device(path):
    path.symlink_to(os.devnull)


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


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full_disk):
    write_text(tmp_path / "file", "old")
    with full_disk(65536), pytest.raises(OSError, match="too large"):
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


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_an_error_that_names_no_file_gets_the_name(tmp_path, monkeypatch, place):
    monkeypatch.setattr(os, place, no_room_somewhere)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'file'}'"):
        write_text(tmp_path / "file", "new")
    assert not list(tmp_path.iterdir())


def test_the_whole_content_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda file: steps.append(os.fstat(file).st_size))
    monkeypatch.setattr(os, "replace", lambda *paths: steps.append("rename"))
    write_text(tmp_path / "file", "12345")
    assert steps == [5, "rename"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link_to_a_device])
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    before = path.lstat()
    with pytest.raises(ValueError, match="file: expected a regular file, or nothing yet"):
        write_text(path, "new")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert list(tmp_path.iterdir()) == [path]


class TestLeftovers:
    def test_those_of_killed_writers_of_the_file_go_with_the_next_write(self, tmp_path, gone):
        (tmp_path / f".a [1].json.{gone}.tmp").write_text("half")
        write_text(tmp_path / "a [1].json", "new")
        assert [path.name for path in tmp_path.iterdir()] == ["a [1].json"]

    @pytest.mark.parametrize("writer", [1, os.getppid(), 10**30])
    def test_those_of_writers_that_may_be_alive_stay(self, tmp_path, writer):
        (tmp_path / f".file.{writer}.tmp").write_text("half")
        write_text(tmp_path / "file", "new")
        assert (tmp_path / f".file.{writer}.tmp").read_text() == "half"

    @pytest.mark.parametrize(
        "name",
        [".other.{}.tmp", ".file.{}.tmp.gz", "file.{}.tmp", ".file.x{}.tmp", ".file.0{}.tmp"],
    )
    def test_files_of_other_names_stay(self, tmp_path, gone, name):
        (tmp_path / name.format(gone)).write_text("else")
        write_text(tmp_path / "file", "new")
        assert (tmp_path / name.format(gone)).read_text() == "else"

    def test_they_stay_when_the_write_fails(self, tmp_path, gone):
        (tmp_path / f".file.{gone}.tmp").write_text("half")
        with pytest.raises(KeyboardInterrupt):
            write_half(tmp_path / "file", KeyboardInterrupt)
        assert (tmp_path / f".file.{gone}.tmp").exists()

    def test_one_that_cannot_be_removed_does_not_fail_the_write(self, tmp_path, gone):
        (tmp_path / f".file.{gone}.tmp").mkdir()
        write_text(tmp_path / "file", "new")
        assert (tmp_path / "file").read_text() == "new"


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
