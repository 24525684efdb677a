import io
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from bezoar.data import load, npz

BYTES = np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)
LABELS = np.arange(20) % 2


def _save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def _save_header(path, shape, descr, content):
    """An archive whose ``images`` claim ``shape`` and hold ``content``."""
    member = io.BytesIO()
    npy.write_array_header_1_0(member, {"shape": shape, "fortran_order": False, "descr": descr})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", member.getvalue() + content)
    return path


def test_grey_images_without_channels_get_one(tmp_path):
    found = npz.image_set(_save(tmp_path / "a.npz", images=BYTES, labels=LABELS), "toy")
    assert found.shape == (1, 2, 3)
    assert found.pixels.dtype == torch.uint8
    assert found.pixels[1].tolist() == [[[6, 7, 8], [9, 10, 11]]]
    assert found.classes == ("0", "1")


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_channels_may_come_first_or_last(tmp_path, axes, order):
    colour = np.random.default_rng(0).random((4, 3, 5, 6), dtype=np.float32)
    images = np.asarray(colour.transpose(axes), order=order)
    found = npz.image_set(_save(tmp_path / "a.npz", images=images, labels=LABELS[:4]), "toy")
    torch.testing.assert_close(found.pixels, torch.from_numpy(colour), rtol=0, atol=0)


def test_class_names_and_tracks_are_kept(tmp_path):
    arrays = {"images": BYTES, "labels": LABELS, "class_names": np.array(["no", "yes", "never"])}
    path = _save(tmp_path / "a.npz", **arrays, track=LABELS.astype(np.uint16))
    found = npz.image_set(path, "toy")
    assert found.classes == ("no", "yes", "never")
    assert found.groups.tolist() == LABELS.tolist()


def test_one_file_is_cut_three_ways(tmp_path):
    data = load(f"npz:{_save(tmp_path / 'mine.npz', images=BYTES, labels=LABELS)}")
    assert data.name == "npz:mine.npz"
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 4, 4]


def test_one_file_with_tracks_is_cut_between_tracks(tmp_path):
    track = np.repeat(np.arange(10), 2)
    path = _save(tmp_path / "mine.npz", images=BYTES, labels=track % 2, track=track)
    data = load(f"npz:{path}")
    assert not set(data.train.groups) & set(data.test.groups)


def test_a_file_with_official_splits_keeps_its_test_split(tmp_path):
    arrays = {"x_train": BYTES, "y_train": LABELS, "x_test": BYTES[:2], "y_test": LABELS[:2]}
    data = load(f"npz:{_save(tmp_path / 'mine.npz', **arrays)}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [17, 3, 2]
    assert data.test.name == "npz:mine.npz/test"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": BYTES.astype(np.int16)}, "mine.npz: images .*int16: expected uint8, or float"),
        ({"images": BYTES.astype(np.float32)}, r"npz:mine.npz with values .*; divide by 255"),
        ({"images": np.full((20, 2, 3), np.nan)}, "npz:mine.npz with values in .nan, nan."),
        ({"images": np.full((20, 2, 3), 1e300)}, "npz:mine.npz with values in .inf, inf."),
        ({"images": BYTES.reshape(20, 2, 3, 1, 1)}, r"expected \(N, H, W\)"),
        ({"images": BYTES.reshape(20, 6)}, r"expected \(N, H, W\)"),
        ({"labels": LABELS[:-1]}, r"labels of npz:mine.npz of shape \(19,\): expected \(20,\)"),
        ({"labels": LABELS + 0.5}, r"mine.npz: labels .*float64: expected \(N,\) integers"),
        ({"labels": LABELS - 1}, "labels of npz:mine.npz hold class -1"),
        ({"labels": LABELS + 10**12}, "label 1000000000001: expected fewer classes than images"),
        ({"labels": LABELS + 1, "class_names": np.array(["a", "b"])}, "hold class 2: expected 0"),
        ({"class_names": np.array([["a"]])}, r"class_names of shape \(1, 1\): expected \(K,\)"),
        ({"class_names": np.array(["a", "\n"])}, r"named '\\n': expected printable text"),
        ({"track": LABELS / 2}, "track of dtype float64: expected integers"),
        ({"images": np.array([{}])}, "mine.npz: images: array of objects refused"),
    ],
)
def test_refuses_arrays_that_do_not_fit(tmp_path, change, message):
    path = _save(tmp_path / "mine.npz", **{"images": BYTES, "labels": LABELS, **change})
    with pytest.raises(ValueError, match=message):
        load(f"npz:{path}")


@pytest.mark.parametrize("missing", ["labels", "y_test"])
def test_names_the_array_that_is_missing(tmp_path, missing):
    given = {"labels": ["images"], "y_test": ["x_train", "y_train", "x_test"]}[missing]
    path = _save(tmp_path / "mine.npz", **dict.fromkeys(given, BYTES))
    with pytest.raises(ValueError, match=f"mine.npz: no '{missing}' inside: expected images and"):
        load(f"npz:{path}")


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.npz: no such file: expected an .npz file"):
        load(f"npz:{tmp_path / 'none.npz'}")


@pytest.mark.parametrize("shape", [(10**9, 28, 28), (2**63, 2**63), (-1, -6), (1, 7)])
def test_refuses_a_header_that_promises_other_sizes_than_the_file_has(tmp_path, shape):
    path = _save_header(tmp_path / "lie.npz", shape, "|u1", bytes(6))
    with pytest.raises(ValueError, match=r"lie.npz: images: header promises shape"):
        npz.arrays(path, ["images"])


@pytest.mark.parametrize("descr", ["|V3", "<M8[s]", "<c8", [("a", "<i4")]])
def test_refuses_arrays_that_are_not_numbers_or_text(tmp_path, descr):
    path = _save_header(tmp_path / "odd.npz", (1,), descr, bytes(8))
    with pytest.raises(ValueError, match=r"odd.npz: images of dtype .*: expected integers, floats"):
        npz.arrays(path, ["images"])


def test_refuses_text_with_code_points_that_do_not_exist(tmp_path):
    names = np.frombuffer(b"\xff\xff\xff\xff" * 2, dtype="<U1")
    path = _save(tmp_path / "odd.npz", images=BYTES, labels=LABELS, class_names=names)
    with pytest.raises(ValueError, match=r"odd.npz: class_names with code point 4294967295"):
        npz.image_set(path, "toy")


def test_refuses_a_file_that_unpacks_to_far_more_than_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "FREE", 1000)
    path = _save(tmp_path / "bomb.npz", images=np.zeros((1000, 28, 28), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"bomb.npz: images.npy unpacks to 784\d+ bytes: expected"):
        npz.arrays(path, ["images"])


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_refuses_what_is_no_archive(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.npz: damaged file .*: expected .npz; fetch it anew"):
        load(f"npz:{path}")


def test_refuses_a_truncated_archive(tmp_path):
    path = _save(tmp_path / "bad.npz", images=BYTES, labels=LABELS)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"bad.npz: damaged file"):
        load(f"npz:{path}")


def test_refuses_an_archive_with_a_flipped_byte(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, images=BYTES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[content.find(BYTES.tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.npz: damaged file .*CRC"):
        load(f"npz:{path}")


@pytest.mark.parametrize(
    "content", [b"x" * 40, b"\x93NUMPY\x03\x00", b"\x93NUMPY\x01\x00\xff\xff{"]
)
def test_refuses_an_unreadable_array_header(tmp_path, content):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(ValueError, match=r"bad.npz: images: unreadable .npy header"):
        npz.arrays(path, ["images"])
