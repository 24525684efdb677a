"""German Traffic Sign Recognition Benchmark (Stallkamp et al., Neural Networks 32, 2012)."""

from pathlib import Path

from bezoar.data import npz
from bezoar.data.imageset import DataSet
from bezoar.data.splits import hold_out


def load(root: Path, seed: int) -> DataSet:
    """Load ``root/gtsrb/train.npz`` and ``test.npz``. Validation: 15 % of the tracks.

    A track is some thirty frames of one physical sign. Neighbouring frames are nearly the same
    image, so a split by image would validate on what was trained on.

    Raises:
        FileNotFoundError: a file is missing; there is no download.
        ValueError: a file is damaged, or train has no ``track``.
    """
    folder = root / "gtsrb"
    sets = {}
    for split in ("train", "test"):
        path = folder / f"{split}.npz"
        if not path.is_file():
            keys = (
                "images (N,H,W,3) uint8, labels (N,), class_names (43,), in train also track (N,)"
            )
            raise FileNotFoundError(
                f"{path}: no such file, and gtsrb has no download: expected train.npz and test.npz "
                f"in {folder} with {keys}; make them, or use --data-root DIR or BEZOAR_DATA"
            )
        sets[split] = npz.image_set(path, "gtsrb")
    if sets["train"].groups is None:
        raise ValueError(
            f"{folder / 'train.npz'}: no 'track' inside: expected the track of each image"
        )
    return hold_out(sets["train"], sets["test"], 0.15, seed)
