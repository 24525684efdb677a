import numpy as np
import pytest
from PIL import Image

from bezoar.data import load


def _save(path, size=(3, 2), mode="L", value=0):
    """An image of (width, height), filled with one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def zoo(tmp_path):
    """Ten grey images 3 wide and 2 high in each of two classes; image i has the value i."""
    root = tmp_path / "zoo"
    for i in range(10):
        _save(root / f"ant/{i:02}.png", value=i)
        _save(root / f"bee/{i:02}.PGM", value=10 + i)
    return root


def test_folders_are_classes_and_files_are_sorted(zoo):
    data = load(f"folder:{zoo}")
    splits = (data.train, data.validation, data.test)
    assert data.name == "folder:zoo"
    assert data.classes == ("ant", "bee")
    assert data.shape == (1, 2, 3)
    assert [len(split) for split in splits] == [12, 4, 4]
    assert all((s.pixels[:, 0, 0, 0].numpy() == s.index).all() for s in splits)
    assert all((s.labels.numpy() == s.index // 10).all() for s in splits)


def test_one_coloured_image_makes_all_coloured(zoo):
    _save(zoo / "bee/99.jpg", mode="RGB", value=(255, 255, 255))
    data = load(f"folder:{zoo}")
    assert data.shape == (3, 2, 3)
    assert (data.train.pixels[0, 0] == data.train.pixels[0, 2]).all()


@pytest.mark.parametrize(
    ("mode", "value", "shape"),
    [("1", 1, (1, 2, 3)), ("LA", (7, 0), (1, 2, 3)), ("RGBA", (7, 8, 9, 0), (3, 2, 3))],
)
def test_transparency_is_dropped(zoo, mode, value, shape):
    _save(zoo / "ant/00.png", mode=mode, value=value)
    assert load(f"folder:{zoo}").shape == shape


def test_a_palette_with_transparency_becomes_colour(zoo):
    image = Image.new("P", (3, 2))
    image.putpalette([7, 8, 9])
    image.save(zoo / "ant/00.png", transparency=b"\x00\x80")
    assert load(f"folder:{zoo}").shape == (3, 2, 3)


def test_other_files_and_hidden_folders_are_passed_over(zoo):
    (zoo / "README.txt").write_text("a zoo")
    (zoo / "ant" / "Thumbs.db").write_text("")
    (zoo / ".cache").mkdir()
    assert len(load(f"folder:{zoo}").train) == 12


def test_images_of_several_sizes_need_a_size(zoo):
    _save(zoo / "bee/99.png", size=(5, 4))
    expected = r"images of 2x3 \(.*ant/00.png\) and 4x5 \(.*bee/99.png\): .* --image-size 2x3"
    with pytest.raises(ValueError, match=expected):
        load(f"folder:{zoo}")


def test_image_size_is_height_and_width_and_resizes_the_whole_frame(zoo):
    # Left half black, right half white: after the resize still so, nothing is cut off.
    frame = np.zeros((8, 8), dtype=np.uint8)
    frame[:, 4:] = 255
    Image.fromarray(frame).save(zoo / "ant/00.png")
    data = load(f"folder:{zoo}", image_size=(4, 2))
    assert data.shape == (1, 4, 2)
    halves = [split.pixels[split.index == 0] for split in (data.train, data.validation, data.test)]
    left, right = next(half for half in halves if len(half)).float().mean(dim=(0, 1, 2)).tolist()
    assert left < 64 < 192 < right


def test_official_splits_are_kept(tmp_path):
    for split, count in {"train": 12, "test": 3}.items():
        for i in range(count):
            _save(tmp_path / f"{split}/a/{i:02}.png", value=i)
            _save(tmp_path / f"{split}/b/{i:02}.png", value=i)
    data = load(f"folder:{tmp_path}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 4, 6]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_an_official_validation_split_is_kept_too(tmp_path, name):
    for split in ("train", "test", name):
        _save(tmp_path / split / "a/0.png")
        _save(tmp_path / split / "b/0.png")
    data = load(f"folder:{tmp_path}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [2, 2, 2]
    assert data.validation.name == f"{data.name}/validation"


def test_a_test_split_may_lack_a_class_and_keeps_its_numbers(tmp_path):
    for i in range(6):
        _save(tmp_path / f"train/a/{i}.png")
        _save(tmp_path / f"train/b/{i}.png")
    _save(tmp_path / "test/b/0.png")
    assert load(f"folder:{tmp_path}").test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train/a/0.png", "no folder 'test': expected both train and test, or neither"),
        ("test/a/0.png", "no folder 'train': expected both train and test, or neither"),
    ],
)
def test_refuses_half_of_the_official_splits(tmp_path, extra, message):
    _save(tmp_path / extra)
    with pytest.raises(ValueError, match=message):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("more/a/0.png", "more: folder beside train and test: expected train, test and"),
        ("test/c/0.png", "test/c: unknown class: expected those of train, a, b"),
    ],
)
def test_refuses_a_folder_that_has_no_place(tmp_path, extra, message):
    for split in ("train", "test"):
        _save(tmp_path / split / "a/0.png")
        _save(tmp_path / split / "b/0.png")
    _save(tmp_path / extra)
    with pytest.raises(ValueError, match=message):
        load(f"folder:{tmp_path}")


def test_refuses_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder: expected one sub-folder"):
        load(f"folder:{tmp_path / 'none'}")


def test_refuses_a_folder_without_classes(tmp_path):
    with pytest.raises(ValueError, match="no folder inside: expected one sub-folder a class"):
        load(f"folder:{tmp_path}")


def test_refuses_a_class_without_images(zoo):
    (zoo / "cow").mkdir()
    with pytest.raises(ValueError, match=r"cow: no image inside: expected at least one of .png"):
        load(f"folder:{zoo}")


def test_refuses_a_truncated_image(zoo):
    path = _save(zoo / "ant/00.png", size=(60, 60))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"ant/00.png: unreadable image .*: expected a whole PNG"):
        load(f"folder:{zoo}", image_size=(2, 2))


@pytest.mark.parametrize("content", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_refuses_a_file_that_is_no_image_whatever_its_name(zoo, content):
    (zoo / "ant/00.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"ant/00.png: unreadable image"):
        load(f"folder:{zoo}")


def test_refuses_images_of_16_bits(zoo):
    _save(zoo / "ant/00.png", mode="I;16")
    with pytest.raises(
        ValueError, match=r"ant/00.png: unreadable image \(mode I;16\): .* of 8 bits"
    ):
        load(f"folder:{zoo}")


@pytest.mark.parametrize("limit", [2, 4], ids=["error", "warning"])
def test_refuses_a_decompression_bomb(zoo, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"ant/00.png: unreadable image .*bomb"):
        load(f"folder:{zoo}")


@pytest.mark.parametrize("link", ["ant/99.png", "cow"])
def test_refuses_a_link_that_leads_out(zoo, tmp_path, link):
    _save(tmp_path / "out/0.png")
    target = tmp_path / ("out/0.png" if link.endswith("png") else "out")
    (zoo / link).symlink_to(target)
    with pytest.raises(ValueError, match=f"{link}: link that leads out of .*: refused"):
        load(f"folder:{zoo}")


def test_a_link_that_stays_inside_is_followed(zoo):
    (zoo / "ant/99.png").symlink_to(zoo / "ant/00.png")
    data = load(f"folder:{zoo}")
    assert len(data.train) + len(data.validation) + len(data.test) == 21


@pytest.mark.parametrize("size", [(0, 2), (2, -1), (2, 1.5)])
def test_refuses_an_image_size_that_is_none(zoo, size):
    with pytest.raises(ValueError, match=r"image_size=.*: expected an integer >= 1"):
        load(f"folder:{zoo}", image_size=size)
