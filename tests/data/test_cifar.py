import io
import pickle
import tarfile

import numpy as np
import pytest

from bezoar.data import cifar, load

LABELS = [0, 1] * 5


def _published(pixels, labels):
    """A batch as Python 2 wrote it: protocol 2, names of old numpy, byte strings."""
    count = len(pixels)
    name = b"cnumpy.core.multiarray\n_reconstruct\n"
    array = name + b"(cnumpy\nndarray\n(K\x00tU\x01btR"
    flags = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR" + flags
    size = pixels.size.to_bytes(4, "little")
    state = b"(K\x01(M" + count.to_bytes(2, "little") + b"M\x00\x0ct" + kind + b"\x89"
    data = array + state + b"T" + size + pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + data + b"U\x06labels" + numbers + b"u."


def _pixels(count, first=0):
    """Image i is filled with first + i."""
    values = np.arange(first, first + count, dtype=np.uint8)
    return np.repeat(values, 3072).reshape(count, 3072)


def _batches():
    """Six batches of ten images; the images of batch b are filled with 10 b to 10 b + 9."""
    names = (*cifar.TRAIN, *cifar.TEST)
    return {name: _published(_pixels(10, 10 * b), LABELS) for b, name in enumerate(names)}


def _folder(root, batches):
    place = root / "cifar10" / cifar.FOLDER
    place.mkdir(parents=True)
    for name, content in batches.items():
        (place / name).write_bytes(content)
    return place


def _archive(root, batches):
    (root / "cifar10").mkdir()
    path = root / "cifar10" / cifar.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_reads_a_batch_as_it_was_published():
    values = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    pixels, labels = cifar.read_batch(_published(values, [3, 9]), "batch")
    assert pixels.shape == (2, 3, 32, 32)
    assert (pixels.reshape(2, 3072) == values).all()
    assert labels.tolist() == [3, 9]


def test_our_stand_ins_agree_with_a_real_unpickler():
    values = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    content = pickle.dumps({b"data": values, b"labels": [3, 9]}, protocol=4)
    pixels, _ = cifar.read_batch(content, "batch")
    assert (pixels.reshape(2, 3072) == values).all()


@pytest.mark.parametrize("place", [_folder, _archive], ids=["folder", "archive"])
def test_six_batches_are_the_official_splits(tmp_path, place):
    place(tmp_path, _batches())
    data = load("cifar10", root=tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [45, 5, 10]
    assert data.test.pixels[:, 0, 0, 0].tolist() == list(range(50, 60))
    assert (data.train.pixels[:, 2, 31, 31].numpy() == data.train.index).all()


def test_an_archive_is_not_unpacked_to_disk(tmp_path):
    path = _archive(tmp_path, _batches())
    load("cifar10", root=tmp_path)
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_reads_npz_files(tmp_path):
    (tmp_path / "cifar10").mkdir()
    for split in ("train", "test"):
        images = np.zeros((20, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"cifar10/{split}.npz", images=images, labels=np.arange(20) % 2)
    data = load("cifar10", root=tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [18, 2, 20]


class Payload:
    """Writes a file when it is unpickled by a careless reader."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_payload_is_refused_and_not_run(tmp_path, protocol):
    mark = tmp_path / "was run"
    content = pickle.dumps({"data": Payload(mark)}, protocol)
    with pytest.raises(
        ValueError, match=r"batch: refused \(it names \w+.open\): expected an offic"
    ):
        cifar.read_batch(content, "batch")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        _published(_pixels(2), [0, 1])[:-500],
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo slot two thousand million places away
        b"\x80\x02c__builtin__\neval\n(U\x011tR.",
        b"\x80\x02cnumpy\ndtype\n)R.",
        b"\x80\x02cnumpy\nndarray\n)R}b.",
    ],
)
def test_refuses_bytes_that_are_no_batch(content):
    with pytest.raises(ValueError, match="batch: refused"):
        cifar.read_batch(content, "batch")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "batch: no 'data' inside"),
        ({b"data": _pixels(2)}, "batch: no 'labels' inside"),
        ({b"data": b"bytes", b"labels": []}, "data of bytes: expected an array"),
        ({b"data": _pixels(2)[:, :9], b"labels": [0, 1]}, "18 bytes as .*expected .N, 3072. of u1"),
        ({b"data": _pixels(2).view(np.int8), b"labels": [0, 1]}, "of i1: expected"),
        ({b"data": _pixels(2), b"labels": [0]}, "batch: 1 labels: expected 2, from 0 to 9"),
        ({b"data": _pixels(2), b"labels": [0, 10]}, "batch: 2 labels: expected 2, from 0 to 9"),
        ({b"data": _pixels(2), b"labels": [0, 1.5]}, "labels of list: expected a list of integers"),
    ],
)
def test_refuses_a_batch_whose_parts_do_not_fit(batch, message):
    with pytest.raises(ValueError, match=message):
        cifar.read_batch(pickle.dumps(batch), "batch")


def test_names_the_batch_that_is_missing(tmp_path):
    place = _folder(tmp_path, _batches())
    (place / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="no data_batch_4: expected data_batch_1, "):
        load("cifar10", root=tmp_path)


def test_refuses_a_batch_of_unusual_size(tmp_path, monkeypatch):
    _folder(tmp_path, _batches())
    monkeypatch.setattr(cifar, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"data_batch_1: \d+ bytes: expected at most 1000"):
        load("cifar10", root=tmp_path)


@pytest.mark.parametrize("length", [0, 10, 200])
def test_refuses_a_truncated_archive(tmp_path, length):
    path = _archive(tmp_path, _batches())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz: damaged archive"):
        load("cifar10", root=tmp_path)
