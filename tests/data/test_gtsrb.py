import numpy as np
import pytest

from bezoar.data import load

TRACK = np.repeat(np.arange(40), 3)


def _save(root, **extra):
    (root / "gtsrb").mkdir()
    images = np.zeros((120, 2, 2, 3), dtype=np.uint8)
    np.savez(root / "gtsrb/train.npz", images=images, labels=TRACK % 2, **extra)
    np.savez(root / "gtsrb/test.npz", images=images[:4], labels=np.array([0, 1, 0, 1]))


def test_holds_out_whole_tracks(tmp_path):
    _save(tmp_path, track=TRACK)
    data = load("gtsrb", root=tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [102, 18, 4]
    assert not set(data.train.groups) & set(data.validation.groups)
    assert np.bincount(data.validation.labels).tolist() == [9, 9]


def test_refuses_train_images_without_tracks(tmp_path):
    _save(tmp_path)
    with pytest.raises(ValueError, match=r"train.npz: no 'track' inside"):
        load("gtsrb", root=tmp_path)


def test_says_where_the_files_belong(tmp_path):
    expected = (
        r"train.npz: no such file, and gtsrb has no download: .*--data-root DIR or BEZOAR_DATA"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        load("gtsrb", root=tmp_path)
