import gzip
import struct

import numpy as np
import pytest

from bezoar.data import idx, load
from bezoar.data.idx import IMAGES, LABELS, read

PIXELS = bytes(range(12))
GOOD = struct.pack(">4I", IMAGES, 2, 3, 2) + PIXELS


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packing", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reads_images_plain_and_packed(tmp_path, packing):
    images = read(_write(tmp_path / "images", packing(GOOD)), IMAGES)
    assert images.tolist() == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]


def test_a_pair_becomes_an_image_set(tmp_path):
    images = _write(tmp_path / "images", GOOD)
    labels = _write(tmp_path / "labels", struct.pack(">2I", LABELS, 2) + b"\1\0")
    found = idx.image_set(images, labels, ("a", "b"), "toy")
    assert found.shape == (1, 3, 2)
    assert found.labels.tolist() == [1, 0]
    assert found.index.tolist() == [0, 1]


@pytest.mark.parametrize("packing", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic number 0x00000000: expected 0x00000803"),
        (struct.pack(">2I", LABELS, 2), "magic number 0x00000801: expected 0x00000803"),
        (GOOD[:10], "header of sizes"),
        (struct.pack(">4I", IMAGES, 0, 3, 2), "header of sizes .0, 3, 2.: expected 3, all above 0"),
        (GOOD[:-1], "fewer bytes than sizes .2, 3, 2. say: expected 28"),
        (GOOD + b"\0", "more bytes than sizes .2, 3, 2. say: expected 28"),
        (struct.pack(">4I", IMAGES, 9999, 28, 28), "fewer bytes than sizes .9999, 28, 28. say"),
        (struct.pack(">4I", IMAGES, *[2**32 - 1] * 3), "header promises 792.*: expected at most"),
    ],
)
def test_refuses_a_file_that_is_not_what_its_header_says(tmp_path, packing, content, message):
    path = _write(tmp_path / "file", packing(content))
    with pytest.raises(ValueError, match=rf"file: {message}"):
        read(path, IMAGES)


def test_refuses_a_gzip_file_that_is_cut_off(tmp_path):
    path = _write(tmp_path / "file.gz", gzip.compress(GOOD)[:-4])
    with pytest.raises(ValueError, match=r"file.gz: gzip file ends early"):
        read(path, IMAGES)


def test_refuses_a_gzip_file_with_a_wrong_checksum(tmp_path):
    packed = bytearray(gzip.compress(GOOD))
    packed[-6] ^= 1
    with pytest.raises(ValueError, match=r"file.gz: damaged gzip file .*incorrect data check"):
        read(_write(tmp_path / "file.gz", packed), IMAGES)


def test_unpacks_a_bomb_no_further_than_its_header_says(tmp_path, monkeypatch):
    unpacked = []
    honest = idx._unpacked

    def counted(*arguments):
        unpacked.append(len(honest(*arguments)))
        return honest(*arguments)

    monkeypatch.setattr(idx, "_unpacked", counted)
    path = _write(tmp_path / "bomb.gz", gzip.compress(GOOD + bytes(10**7)))
    with pytest.raises(ValueError, match="more bytes than"):
        read(path, IMAGES)
    assert max(unpacked) == len(GOOD) + 1


def test_refuses_unequal_numbers_of_images_and_labels(tmp_path):
    images = _write(tmp_path / "images", GOOD)
    labels = _write(tmp_path / "labels", struct.pack(">2I", LABELS, 3) + b"\1\0\1")
    with pytest.raises(
        ValueError, match="images: 2 images: expected 3, as many as labels in labels"
    ):
        idx.image_set(images, labels, ("a", "b"), "toy")


def test_refuses_a_label_outside_the_classes(tmp_path):
    images = _write(tmp_path / "images", GOOD)
    labels = _write(tmp_path / "labels", struct.pack(">2I", LABELS, 2) + b"\1\2")
    with pytest.raises(ValueError, match="labels of toy hold class 2: expected 0 to 1"):
        idx.image_set(images, labels, ("a", "b"), "toy")


def _tiny_mnist(root):
    folder = root / "mnist"
    folder.mkdir()
    for images, labels in idx.FILES.values():
        _write(folder / images, struct.pack(">4I", IMAGES, 12, 1, 1) + bytes(12))
        _write(folder / labels, struct.pack(">2I", LABELS, 12) + b"\0\1" * 6)


def test_refuses_other_images_under_the_name_of_a_published_set(tmp_path):
    _tiny_mnist(tmp_path)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: checksum \w+ of contents"):
        load("mnist", root=tmp_path)


def test_finds_plain_files_and_holds_out_a_sixth(tmp_path, monkeypatch):
    _tiny_mnist(tmp_path)
    monkeypatch.setattr(idx, "_require_original", lambda *_: None)
    data = load("mnist", root=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 2, 12)
    assert data.validation.name == "mnist/validation"
    assert np.bincount(data.validation.labels).tolist() == [1, 1]
