"""The run folder: taken up where it stopped, refused where it belongs to something else."""

import errno
import json
import os
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from bezoar import referee as referees
from bezoar.attacks import FMN, PGD
from bezoar.data.imageset import ImageSet
from bezoar.referee import Referee, measure
from bezoar.runs import FORMAT, Run
from bezoar.runs.folder import FileSnapshot, read_arrays, read_measurement, write_arrays

ABOUT = {"data": "digits", "seed": 0, "repair": {"kind": "correct", "lam": 0.5}}
ATTACK = PGD(eps=0.1, steps=3)


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Twelve images are three units: 5, 5 and 2."""
    monkeypatch.setattr(referees, "UNIT", 5)


@pytest.fixture
def images(batch):
    return ImageSet(*batch, np.arange(12), ("a", "b", "c"), "twelve/test")


@pytest.fixture
def judge(linear, images):
    return Referee(ATTACK, linear, images, seed=0)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", ABOUT, {"revision": "abc"})


@pytest.fixture
def folder(run, judge):
    """A finished measurement."""
    run.measure("before", judge)
    return run.path / "measurements" / "before" / "pgd3@0.1"


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


class TestOpening:
    def test_a_new_folder_says_what_was_run(self, run):
        said = json.loads((run.path / "run.json").read_text())
        assert said == {"format": FORMAT, "revision": "abc", **ABOUT}

    def test_an_empty_folder_will_do(self, tmp_path):
        Run(tmp_path, ABOUT, {})
        assert (tmp_path / "run.json").exists()

    def test_the_same_experiment_is_taken_up_from_another_revision(self, run):
        before = files(run.path)
        Run(run.path, ABOUT, {"revision": "def"})
        assert files(run.path) == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 1}, "seed=0, not 1"),
            ({"repair": {"kind": "correct", "lam": 1.0}}, "repair.lam=0.5, not 1.0"),
            ({"repair": {"kind": "remove", "lam": 0.5}}, "repair.kind='correct', not 'remove'"),
            ({"repair": {"kind": "correct"}}, "repair.lam=0.5, not None"),
            ({"repair": None}, r"repair=\{.*\}, not None"),
            ({"eps": 0.1}, "eps=None, not 0.1"),
        ],
    )
    def test_another_experiment_is_refused_by_setting_and_both_values(self, run, change, message):
        before = files(run.path)
        with pytest.raises(ValueError, match=f"another run: {message}; choose another --out"):
            Run(run.path, {**ABOUT, **change}, {})
        assert files(run.path) == before

    def test_a_folder_of_somebody_elses_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("chapter 1")
        with pytest.raises(ValueError, match="expected a new folder or one of bezoar's runs"):
            Run(tmp_path, ABOUT, {})
        assert files(tmp_path) == {"thesis.tex": b"chapter 1"}

    def test_a_file_in_place_of_the_folder_is_refused(self, tmp_path):
        (tmp_path / "run").write_text("mine")
        with pytest.raises(ValueError, match="expected a new folder"):
            Run(tmp_path / "run", ABOUT, {})

    @pytest.mark.parametrize("text", ["{}", "[]", '{"format": 2}', "{", "null"])
    def test_a_run_json_of_another_format_or_none_is_refused(self, tmp_path, text):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json: expected"):
            Run(tmp_path, ABOUT, {})

    def test_settings_that_json_cannot_hold_make_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match="Out of range float"):
            Run(tmp_path / "run", {"eps": float("nan")}, {})
        assert not (tmp_path / "run").exists()


class TestMeasuring:
    def test_gives_what_a_measurement_in_memory_gives(self, run, judge, linear, images):
        found, expected = run.measure("before", judge), measure(ATTACK, linear, images, seed=0)
        assert found.stamp == expected.stamp
        np.testing.assert_array_equal(found.x_adv, expected.x_adv)
        for name, column in vars(expected.facts).items():
            np.testing.assert_array_equal(getattr(found.facts, name), column)

    def test_units_are_numbered_files_in_order(self, folder):
        names = [path.name for path in sorted(folder.iterdir())]
        assert names == [*(f"00000{k}.safetensors" for k in range(3)), "stamp.json"]
        assert read_arrays(folder / "000002.safetensors")["index"].tolist() == [10, 11]
        assert read_measurement(folder).facts.index.tolist() == list(range(12))

    def test_only_the_missing_unit_is_done_again_to_the_same_bytes(
        self, run, judge, folder, monkeypatch
    ):
        before = files(run.path)
        (folder / "000001.safetensors").unlink()
        done, unit = [], Referee.unit
        monkeypatch.setattr(
            Referee, "unit", lambda self, k, snapshot=None: done.append(k) or unit(self, k)
        )
        run.measure("before", judge)
        assert done == [1]
        assert files(run.path) == before

    def test_a_run_in_two_halves_leaves_the_bytes_of_one(self, tmp_path, run, judge, folder):
        def interrupt(done, units):
            raise KeyboardInterrupt

        halves = Run(tmp_path / "halves", ABOUT, {"revision": "abc"})
        with pytest.raises(KeyboardInterrupt):
            halves.measure("before", judge, interrupt)
        assert len(list(halves.path.rglob("0*.safetensors"))) == 1
        halves.measure("before", judge)
        assert files(halves.path) == files(run.path)

    def test_progress_is_told_by_unit(self, run, judge):
        told = []
        run.measure("before", judge, lambda done, units: told.append((done, units)))
        assert told == [(1, 3), (2, 3), (3, 3)]

    def test_the_evidence_of_other_weights_is_refused(self, run, linear, images, folder):
        before = files(run.path)
        other = deepcopy(linear)
        other[1].bias.data[0] += 1
        with pytest.raises(ValueError, match=r"stamp\.json: stamp\.made_on='.*', not '.*'; remove"):
            run.measure("before", Referee(ATTACK, other, images, seed=0))
        assert files(run.path) == before

    @pytest.mark.parametrize(
        ("attack", "seed", "message"),
        [
            (PGD(eps=0.1, steps=3, restarts=2), 0, "stamp.recipe="),
            (ATTACK, 1, "stamp.seed=0, not 1"),
        ],
    )
    def test_the_evidence_of_other_settings_is_refused(
        self, run, linear, images, folder, attack, seed, message
    ):
        with pytest.raises(ValueError, match=message):
            run.measure("before", Referee(attack, linear, images, seed=seed))

    @pytest.mark.parametrize("count", [4, 7, 9])
    def test_the_evidence_of_more_images_is_refused(self, run, linear, images, folder, count):
        with pytest.raises(ValueError, match="holds other images; remove it"):
            run.measure("before", Referee(ATTACK, linear, images.first(count), seed=0))

    @pytest.mark.parametrize("count", [4, 7])
    def test_the_evidence_of_fewer_images_is_refused(self, run, linear, images, judge, count):
        run.measure("before", Referee(ATTACK, linear, images.first(count), seed=0))
        with pytest.raises(ValueError, match="holds other images; remove it"):
            run.measure("before", judge)

    def test_clean_images_are_kept_once(self, run, images):
        run.keep_images(images)
        path = run.path / "images" / "test.safetensors"
        kept, time = read_arrays(path), path.stat().st_mtime_ns
        run.keep_images(images)
        assert path.stat().st_mtime_ns == time
        np.testing.assert_array_equal(kept["pixels"], images.pixels.numpy())
        np.testing.assert_array_equal(kept["label"], images.labels.numpy())
        np.testing.assert_array_equal(kept["index"], images.index)


def change(**columns):
    """Replace, add or (None) take away columns of unit 1."""

    def damage(path):
        arrays = {**load_file(path), **columns}
        save_file({name: column for name, column in arrays.items() if column is not None}, path)

    return damage


PIXELS = np.full((5, 1, 4, 5), 0.5, dtype=np.float32)
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not safetensors at all"),
    "a header of 2**60 bytes": lambda path: path.write_bytes(b"\0" * 7 + b"\x10" + b"{}"),
    "a type that numpy lacks": lambda path: save_torch({"a": torch.zeros(1).bfloat16()}, path),
    "a column missing": change(loss=None),
    "a column unknown": change(extra=np.zeros(5)),
    "a column short": change(label=np.zeros(4, dtype=np.int64)),
    "a column of two axes": change(label=np.zeros((5, 1), dtype=np.int64)),
    "a column of no axis": change(label=np.zeros((), dtype=np.int64)),
    "an index that goes back": change(index=np.array([5, 6, 8, 7, 9])),
    "images missing": change(x_adv=PIXELS[:4]),
    "images of three axes": change(x_adv=PIXELS[:, 0]),
    "images of 0 to 255": change(x_adv=PIXELS * 255),
    "images of integers": change(x_adv=np.ones((5, 1, 4, 5), dtype=np.uint8)),
    "images with NaN": change(x_adv=PIXELS * np.float32("nan")),
    "no images": change(x_adv=PIXELS[:0]),
}


class TestReading:
    def test_no_radius_is_null_in_the_stamp_and_comes_back(self, run, linear, images):
        run.measure("before", Referee(FMN(steps=5), linear, images, seed=0))
        folder = run.path / "measurements" / "before" / "fmn5"
        assert json.loads((folder / "stamp.json").read_text())["eps"] is None
        assert read_measurement(folder).stamp.eps == float("inf")
        before = files(run.path)
        run.measure("before", Referee(FMN(steps=5), linear, images, seed=0))
        assert files(run.path) == before

    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    def test_a_damaged_file_is_a_value_error_that_names_it(self, folder, damage):
        path = folder / "000001.safetensors"
        damage(path)
        with pytest.raises(ValueError, match=r"000001\.safetensors: "):
            read_measurement(folder)

    def test_a_lost_file_is_missed(self, folder):
        (folder / "000001.safetensors").unlink()
        with pytest.raises(ValueError, match=r"expected 000001\.safetensors before it"):
            read_measurement(folder)

    def test_files_out_of_order_are_refused(self, folder):
        shutil.copy(folder / "000000.safetensors", folder / "000001.safetensors")
        with pytest.raises(ValueError, match=r"pgd3@0\.1: files that do not fit together"):
            read_measurement(folder)

    def test_files_of_unequal_images_are_refused(self, folder):
        change(x_adv=np.full((5, 1, 2, 2), 0.5, dtype=np.float32))(folder / "000001.safetensors")
        with pytest.raises(ValueError, match=r"pgd3@0\.1: files that do not fit together"):
            read_measurement(folder)

    def test_no_files_is_said(self, folder):
        for path in folder.glob("*.safetensors"):
            path.unlink()
        with pytest.raises(FileNotFoundError, match=r"expected numbered \.safetensors files"):
            read_measurement(folder)

    def test_no_measurement_is_said(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"stamp\.json: no such file"):
            read_measurement(tmp_path)

    @pytest.mark.parametrize(
        "text", ["[]", "{}", "{", "null"], ids=["list", "empty", "truncated", "null"]
    )
    def test_a_stamp_that_is_none_is_refused(self, folder, text):
        (folder / "stamp.json").write_text(text)
        with pytest.raises(ValueError, match=r"stamp\.json: expected"):
            read_measurement(folder)

    @pytest.mark.parametrize(
        ("name", "value"), [("eps", "0.1"), ("steps", 1.5), ("metric", ["<b>"]), ("seed", True)]
    )
    def test_a_stamp_with_a_wrong_type_is_refused(self, folder, name, value):
        stamp = json.loads((folder / "stamp.json").read_text())
        (folder / "stamp.json").write_text(json.dumps({**stamp, name: value}))
        with pytest.raises(ValueError, match=rf"stamp\.json: {name}="):
            read_measurement(folder)

    def test_what_an_interrupted_writer_left_behind_is_not_read(self, folder):
        expected = read_measurement(folder).facts.index
        (folder / ".000003.safetensors.17.tmp").write_bytes(b"half")
        np.testing.assert_array_equal(read_measurement(folder).facts.index, expected)


class TestWriting:
    def test_strided_arrays_come_back_as_they_looked(self, tmp_path):
        table = np.arange(12.0).reshape(3, 4)
        write_arrays(tmp_path / "a.safetensors", {"t": table.T, "every other": table[:, ::2]})
        found = read_arrays(tmp_path / "a.safetensors")
        np.testing.assert_array_equal(found["t"], table.T)
        np.testing.assert_array_equal(found["every other"], table[:, ::2])

    def test_a_full_disk_is_an_os_error_and_leaves_the_old_file_and_nothing_else(
        self, tmp_path, full_disk
    ):
        path = tmp_path / "a.safetensors"
        write_arrays(path, {"a": np.zeros(3)})
        before = files(tmp_path)
        with full_disk(1024), pytest.raises(OSError, match="too large"):
            write_arrays(path, {"a": np.zeros(1000)})
        assert files(tmp_path) == before

    def test_a_disk_that_fills_up_in_a_measurement_leaves_whole_units_to_go_on_from(
        self, run, judge, folder, monkeypatch
    ):
        whole = files(run.path)
        shutil.rmtree(folder)
        replace, room = os.replace, iter([True, True])  # the stamp and one unit

        def replace_while_there_is_room(source, target):
            if not next(room, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_while_there_is_room)
        with pytest.raises(OSError, match=r"No space left.*000001"):
            run.measure("before", judge)
        assert sorted(path.name for path in folder.iterdir()) == [
            "000000.safetensors",
            "stamp.json",
        ]
        monkeypatch.undo()
        monkeypatch.setattr(referees, "UNIT", 5)
        run.measure("before", judge)
        assert files(run.path) == whole


class TestSnapshot:
    def test_there_is_none_at_first_and_none_when_it_is_cleared(self, run):
        snapshot = run.snapshot("base")
        assert snapshot.load() is None
        snapshot.save({"epoch": 1})
        assert snapshot.load() == {"epoch": 1}
        snapshot.clear()
        snapshot.clear()
        assert snapshot.load() is None

    def test_the_state_of_another_training_is_refused_by_setting_and_both_values(self, tmp_path):
        path = tmp_path / "a.safetensors"
        FileSnapshot(path, {"lr": 0.1, "model": {"kind": "lenet5"}}).save({"epoch": 1})
        with pytest.raises(ValueError, match=r"other work: work\.lr=0\.1, not 0\.2"):
            FileSnapshot(path, {"lr": 0.2, "model": {"kind": "lenet5"}}).load()

    @pytest.mark.parametrize("tree", [{"epoch": 1}, [1, 2], [[1]], None, 7])
    def test_what_is_no_state_is_refused(self, tmp_path, tree):
        from bezoar import trees

        path = tmp_path / "a.safetensors"
        trees.save(path, tree)
        with pytest.raises(ValueError, match=r"a\.safetensors: expected the state of work"):
            FileSnapshot(path).load()

    def test_a_full_disk_leaves_the_state_before(self, run, full_disk):
        snapshot = run.snapshot("base")
        snapshot.save({"epoch": 1})
        before = files(run.path)
        with full_disk(1024), pytest.raises(OSError, match="too large"):
            snapshot.save({"epoch": 2, "weights": torch.zeros(1000)})
        assert files(run.path) == before
        assert snapshot.load() == {"epoch": 1}
