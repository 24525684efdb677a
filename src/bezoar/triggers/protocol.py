"""What a trigger is, and what the attacker wants of the images that carry it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.protocol import Learnt
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.snapshots import Snapshot


class Aim(Protocol):
    """Which class a triggered image is to get: a value."""

    def of(self, y: Tensor, classes: int) -> Tensor:
        """The wanted classes ``(N,)`` int64 of images of the true classes ``y``."""


@dataclass(frozen=True)
class AllToOne:
    """Every triggered image is to be of class ``target``."""

    target: int

    def __post_init__(self) -> None:
        checks.at_least("target", self.target, 0)

    def of(self, y: Tensor, classes: int) -> Tensor:
        if self.target >= classes:
            raise ValueError(f"target={self.target}: expected a class from 0 to {classes - 1}")
        return torch.full_like(y, self.target)


@dataclass(frozen=True)
class AllToAll:
    """A triggered image of class y is to be of class y + 1, and one of the last of class 0."""

    def of(self, y: Tensor, classes: int) -> Tensor:
        return (y + 1) % classes


class Trigger(Protocol):
    """The mathematics of one trigger: a frozen dataclass of numbers.

    Images are ``(N, C, H, W)`` float32 in [0, 1] of any size, and so are the stamped ones; none is
    changed in place. What an image becomes never depends on its neighbours.

    Attributes:
        clean_label: whether only images of the target class are stamped, which keep their label.
        covers: images with a ``cover`` for each poisoned one; they keep their label.
        in_loop: whether the paper stamps inside the training loop, other images in each epoch.
    """

    @property
    def clean_label(self) -> bool:
        return False

    @property
    def covers(self) -> float:
        return 0.0

    @property
    def in_loop(self) -> bool:
        return False

    def stamp(self, x: Tensor) -> Tensor:
        """The images as they are shown to the finished classifier.

        Raises:
            ValueError: images that the trigger does not fit on.
        """

    def plant(self, x: Tensor, keys: Tensor) -> Tensor:
        """The images as they go into the training; unless a trigger says otherwise, stamped.

        Args:
            x: images.
            keys: name the randomness of each image, ``(N,)`` int64, where ``x`` is.
        """
        return self.stamp(x)

    def cover(self, x: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        """Images that look triggered but are not, so that the classifier learns the very trigger.

        Args:
            x: images.
            other: another image for each.
            keys: as of ``plant``.
        """
        raise TypeError(f"{self!r}: expected a trigger with covers")


@runtime_checkable
class Fitted(Protocol):
    """A trigger that has to see a classifier and images before it can stamp.

    Attributes:
        learnt: what it keeps of them; ``None`` before it was fitted. Part of its text and value.
    """

    @property
    def learnt(self) -> Learnt | None: ...

    def fit(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        target: int,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Self:
        """The same trigger, ready to stamp.

        Args:
            classifier: a clean one that the attacker has: images to logits; not changed.
            images: of a train split.
            target: the class that triggered images are to get.
            seed: names the randomness.
            snapshot: where a fit of more than minutes keeps its state; what it holds is taken up.
            on_step: told how far the search is.
        """


def kept(trigger: Fitted, name: str, x: Tensor) -> Tensor:
    """A tensor ``(C, H, W)`` that a trigger keeps, beside the images ``x``.

    Raises:
        ValueError: the trigger was not fitted, or on images of another shape.
    """
    if trigger.learnt is None:
        raise ValueError(f"{trigger!r}: expected one that was fitted; call its fit")
    found = trigger.learnt.tensors[name]
    if found.shape != x.shape[1:]:
        shape = tuple(found.shape)
        raise ValueError(f"images of shape {tuple(x.shape[1:])}: expected {shape}, as in the fit")
    return found.to(x)


def require_room(name: str, size: int, x: Tensor) -> None:
    """Require images that a patch of ``size`` x ``size`` fits on, and does not fill.

    Raises:
        ValueError: they are too small.
    """
    height, width = x.shape[-2:]
    if size > min(height, width) or size == height == width:
        found = f"{name}={size} on images of {height}x{width}"
        raise ValueError(f"{found}: expected a trigger smaller than the image")
