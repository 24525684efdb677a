"""Labelled images in memory, and the three splits that experiments are made of."""

from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bezoar import checks

Rows = Tensor | NDArray[np.int64] | slice


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on the CPU; callers move batches to where the classifier is.

    Attributes:
        pixels: ``(N, C, H, W)``, uint8 in 0 .. 255 or float32 in [0, 1].
        labels: class numbers, ``(N,)`` int64.
        index: position of each image in the source of its split, ``(N,)`` int64, increasing.
        classes: names of the classes, in order of their numbers.
        name: set and split, for example ``"mnist/test"``.
        groups: what belongs together, ``(N,)``, for example the frames of one physical sign.

    Raises:
        ValueError: the columns disagree in length, or hold something else than stated above.
    """

    pixels: Tensor
    labels: Tensor
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str
    groups: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        _require_names(self.classes, self.name)
        _require_pixels(self.pixels, f"pixels of {self.name}")
        checks.labels(self.labels, len(self.classes), f"labels of {self.name}")
        shapes = {"labels": tuple(self.labels.shape), "index": self.index.shape}
        if self.groups is not None:
            shapes["groups"] = self.groups.shape
        for column, shape in shapes.items():
            if shape != (len(self.pixels),):
                found = f"{column} of {self.name} of shape {shape}"
                raise ValueError(f"{found}: expected ({len(self.pixels)},), one an image")
        if self.index.dtype != np.int64 or self.index[0] < 0 or (np.diff(self.index) <= 0).any():
            raise ValueError(f"index of {self.name}: expected increasing int64 positions from 0")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Copy some images, in the order asked for.

        Args:
            rows: positions in this set, in any order, repeats allowed.

        Returns:
            x: images ``(n, C, H, W)`` float32 in [0, 1].
            y: class numbers ``(n,)`` int64.

        Raises:
            ValueError: a row outside this set.
        """
        chosen = torch.from_numpy(self._rows(rows))
        x = self.pixels[chosen]
        return x.float().div_(255) if x.dtype == torch.uint8 else x, self.labels[chosen]

    def take(self, rows: Rows) -> "ImageSet":
        """Keep some images; ``rows`` must be ascending, so that ``index`` stays increasing."""
        chosen = self._rows(rows)
        if (np.diff(chosen) <= 0).any():
            raise ValueError(f"rows of {self.name}: expected ascending rows without repeats")
        at = torch.from_numpy(chosen)
        groups = None if self.groups is None else self.groups[chosen]
        return replace(
            self,
            pixels=self.pixels[at],
            labels=self.labels[at],
            index=self.index[chosen],
            groups=groups,
        )

    def first(self, count: int) -> "ImageSet":
        """Keep the first ``count`` images, in the order of the source."""
        checks.at_least("count", count, 1)
        if count > len(self):
            raise ValueError(f"count={count}: expected at most the {len(self)} of {self.name}")
        return self.take(slice(count))

    def at_most(self, count: int) -> "ImageSet":
        """Keep the first ``count`` images if there are more; 0 keeps all."""
        return self.first(min(count or len(self), len(self)))

    def without(self, rows: Rows) -> "ImageSet":
        """Drop some images; repeats and any order are allowed."""
        return self.take(np.setdiff1d(np.arange(len(self)), self._rows(rows)))

    def _rows(self, rows: Rows) -> NDArray[np.int64]:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        found = np.asarray(rows)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            what = f"rows of shape {found.shape} and dtype {found.dtype}"
            raise TypeError(f"{what}: expected (n,) integers")
        chosen = found.astype(np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            what = f"rows {chosen.min()} to {chosen.max()} of {self.name}"
            raise ValueError(f"{what}: expected 0 to {len(self) - 1}")
        return chosen


@dataclass(frozen=True, eq=False)
class DataSet:
    """The three splits of a set of labelled images; all hold images of one shape.

    Nothing is fitted, tuned or stopped on ``test``.

    Raises:
        ValueError: fewer than two classes, or splits of unequal shapes or classes.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"classes={self.classes} of {self.name}: expected at least two")
        for split in (self.train, self.validation, self.test):
            if split.classes != self.classes:
                raise ValueError(f"{split.name}: expected the classes of {self.name}")
            if split.shape != self.shape:
                found = f"{split.name} holds images of shape {split.shape}"
                raise ValueError(f"{found}: expected {self.shape}, as in {self.train.name}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.shape


def digest(*splits: ImageSet) -> str:
    """Name images by their bytes: two files of one name need not hold the same."""
    digest = blake2b(digest_size=8)
    for images in splits:
        for column in (images.pixels.numpy(), images.labels.numpy(), images.index):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _require_names(classes: tuple[str, ...], name: str) -> None:
    # Names come from strangers' files and go to terminals and pages.
    for number, text in enumerate(classes):
        if not text or not text.isprintable():
            raise ValueError(f"class {number} of {name} named {text!r}: expected printable text")
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes of {name}: expected different names, found one twice")


def _require_pixels(pixels: Tensor, name: str) -> None:
    if pixels.dtype == torch.float32:
        checks.images(pixels, name)
    elif pixels.dtype != torch.uint8 or pixels.ndim != 4 or not pixels.numel():
        found = f"{name} of shape {tuple(pixels.shape)} and dtype {pixels.dtype}"
        raise ValueError(f"{found}: expected (N >= 1, C, H, W), uint8 or float32 in [0, 1]")
