"""Poison: put a trigger on some images of a training set, once or inside the training loop."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import checks
from bezoar.data.imageset import ImageSet
from bezoar.fit import BatchLoss
from bezoar.seeds import derive, subkeys
from bezoar.triggers.protocol import Aim, AllToOne, Trigger

CHUNK = 1024  # images that are stamped at once


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned training set, and what a defender does not know of it.

    Attributes:
        images: all images with the labels that they are trained on, in the order of the source.
        rows: positions in ``images`` of those with the trigger and the attacker's label, ``(P,)``
            int64, increasing.
        covers: positions of those with a cover, which keep their label, ``(Q,)`` int64, increasing.
        labels: true classes of all images, ``(N,)`` int64.
        trigger: what is on them.
        aim: the classes that the attacker wants.
    """

    images: ImageSet
    rows: NDArray[np.int64]
    covers: NDArray[np.int64]
    labels: Tensor
    trigger: Trigger
    aim: Aim


def poison(images: ImageSet, trigger: Trigger, aim: Aim, *, rate: float, seed: int) -> Poisoned:
    """Put a trigger on a share of a training set.

    Whether an image is chosen follows from the seed and its own position in the source: it is
    among the P smallest of one number drawn for each. So a higher rate keeps what a lower one
    chose. Poison is drawn from all classes, the target among them; with clean labels from the
    target class alone. Images of 8 bits stay such, the stamped ones are rounded to them.

    Args:
        images: of a train split; not changed.
        trigger: what is put on them.
        aim: the classes that the attacker wants.
        rate: share of all images that is poisoned, in (0, 1]; covers come on top.
        seed: names the choice and the randomness of each image.

    Raises:
        ValueError: no image would be poisoned or more than there are, there is no image of the
            target class, the labels cannot stay true, or the trigger does not fit on the images.
    """
    require_fit(images, trigger, aim)
    wanted = aim.of(images.labels, len(images.classes))
    candidates = torch.arange(len(images))
    if trigger.clean_label:
        candidates = candidates[images.labels == wanted]
    count = _count(rate, len(images), len(candidates), trigger)
    index = torch.from_numpy(images.index)
    luck = subkeys(torch.full((len(images),), derive(seed, "poison")), index)
    order = candidates[luck[candidates].argsort(stable=True)]
    extra = round(count * trigger.covers)
    if count + extra > len(order):
        found = f"rate={rate!r} and {trigger.covers:g} covers for each poisoned image"
        raise ValueError(f"{found}: expected no more than the {len(order)} images")
    rows = order[:count].sort().values
    covers = order[count : count + extra].sort().values

    keys = subkeys(torch.full((len(images),), derive(seed, "poison", "noise")), index)
    # Another image for each cover: the set shifted by a number that the seed gives.
    shift = 1 + derive(seed, "poison", "other") % max(1, len(images) - 1)
    pixels = images.pixels.clone()
    for part in rows.split(CHUNK):
        pixels[part] = _in_bits(trigger.plant(images.batch(part)[0], keys[part]), pixels)
    for part in covers.split(CHUNK) if len(covers) else ():
        others = images.batch((part + shift) % len(images))[0]
        pixels[part] = _in_bits(trigger.cover(images.batch(part)[0], others, keys[part]), pixels)
    labels = images.labels.clone()
    labels[rows] = wanted[rows]
    poisoned = replace(images, pixels=pixels, labels=labels, name=f"{images.name}, poisoned")
    return Poisoned(poisoned, rows.numpy(), covers.numpy(), images.labels, trigger, aim)


def planting(
    trigger: Trigger, aim: Aim, *, rate: float, classes: int, loss: BatchLoss
) -> BatchLoss:
    """The loss of a training that stamps its own batches, other images in each epoch.

    An image is poisoned with probability ``rate`` and covered with ``covers`` times that; what it
    draws follows from torch's global generator, to which ``fit.fit`` gives a state of its own in
    each step. So such a training goes on to the bit where it was killed.

    Args:
        trigger: one that needs no clean labels.
        aim: the classes that the attacker wants.
        rate: share of the images that is poisoned, in (0, 1].
        classes: how many there are.
        loss: of the stamped batch.

    Raises:
        ValueError: a rate that with its covers is above 1, or clean labels.
    """
    if trigger.clean_label:
        raise ValueError(f"{trigger!r}: expected a trigger that changes labels; use poison")
    checks.in_range("rate", rate, 0, 1)
    if not 0 < rate * (1 + trigger.covers) <= 1:
        found = f"rate={rate!r} and {trigger.covers:g} covers for each poisoned image"
        raise ValueError(f"{found}: expected above 0, and at most all images")

    def planted(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        luck, keys = torch.rand(len(x)).to(x.device), torch.randint(2**62, (len(x),)).to(x.device)
        shift = int(torch.randint(1, max(2, len(x)), ()))
        chosen = luck < rate
        covered = (luck < rate * (1 + trigger.covers)) & ~chosen
        shown, said = x.clone(), torch.where(chosen, aim.of(y, classes), y)
        if chosen.any():
            shown[chosen] = trigger.plant(x[chosen], keys[chosen])
        if covered.any():
            others = x.roll(shift, dims=0)[covered]
            shown[covered] = trigger.cover(x[covered], others, keys[covered])
        return loss(model, shown, said, rows)

    return planted


def stamped(images: ImageSet, trigger: Trigger) -> ImageSet:
    """All images with the trigger on them, as a finished classifier is shown them."""
    pixels = images.pixels.clone()
    for part in torch.arange(len(images)).split(CHUNK):
        pixels[part] = _in_bits(trigger.stamp(images.batch(part)[0]), pixels)
    return replace(images, pixels=pixels, name=f"{images.name}, stamped")


def require_fit(images: ImageSet, trigger: Trigger, aim: Aim) -> None:
    """Require that a trigger goes on the images and changes them, and that the aim can be met.

    Raises:
        ValueError: it does not, or the target class has no image, or the labels cannot stay true.
    """
    aim.of(images.labels[:1], len(images.classes))
    if isinstance(aim, AllToOne):
        if not (images.labels == aim.target).any():
            found = f"target={aim.target}: no image of this class in {images.name}"
            raise ValueError(f"{found}: expected at least one")
    elif trigger.clean_label:
        raise ValueError(f"{aim!r}: expected one target class, for a trigger with clean labels")
    x, _ = images.batch(slice(1))
    checks.images(trigger.stamp(x), f"images stamped by {trigger!r}")


def _in_bits(x: Tensor, like: Tensor) -> Tensor:
    """Images as they are kept beside ``like``: rounded to 8 bits, or as they are."""
    return x.mul(255).round().to(torch.uint8) if like.dtype == torch.uint8 else x


def _count(rate: float, total: int, candidates: int, trigger: Trigger) -> int:
    checks.in_range("rate", rate, 0, 1)
    count = round(rate * total)
    if not count:
        raise ValueError(f"rate={rate!r} of {total} images: expected at least one poisoned image")
    if count > candidates:
        where = "of the target class" if trigger.clean_label else "in all"
        found = f"rate={rate!r}: {count} of {total} images"
        raise ValueError(f"{found}: expected no more than the {candidates} {where}")
    return count
