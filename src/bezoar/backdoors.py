"""What a backdoor does: how often triggered images go where the attacker wants, and how often not.

Measured on test images whose true class is not the one that the attacker wants: on all others a
classifier without a backdoor would count as one that has it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar.attacks.oracle import DRAWS
from bezoar.classifier import predict, random_modules, said
from bezoar.data.imageset import ImageSet
from bezoar.detection import roc
from bezoar.results import Rate
from bezoar.scans.protocol import Finding
from bezoar.seeds import derive, subkeys
from bezoar.triggers import Aim, Trigger
from bezoar.triggers.poison import require_fit, stamped


@dataclass(frozen=True, eq=False)
class Triggered:
    """Stamped test images, and what the attacker wants of them.

    Attributes:
        images: those of which the attacker wants another class than the true one, stamped, with
            their true classes as labels.
        wanted: the class that he wants of each, ``(M,)`` int64.
    """

    images: ImageSet
    wanted: Tensor


def triggered(images: ImageSet, trigger: Trigger, aim: Aim) -> Triggered:
    """Stamp the test images that the attacker wants to be of another class.

    Images of 8 bits stay such: what is stamped is rounded to them, as a file would be.

    Raises:
        ValueError: there is none, or the trigger does not fit on the images.
    """
    require_fit(images, trigger, aim)
    wanted = aim.of(images.labels, len(images.classes))
    others = (wanted != images.labels).nonzero().squeeze(1)
    if not len(others):
        found = f"{images.name} and {aim!r}: no image of another class"
        raise ValueError(f"{found}: expected at least one")
    return Triggered(stamped(images.take(others), trigger), wanted[others])


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What a classifier says of clean and of triggered images; -1 where it says no number.

    Attributes:
        label: true classes of all clean images, ``(N,)`` int64.
        clean: classes said of them, ``(N,)`` int64.
        index: positions of the triggered images in the source, ``(M,)`` int64, increasing.
        true: true classes of the triggered images, ``(M,)`` int64.
        wanted: classes that the attacker wants of them, none of which is true, ``(M,)`` int64.
        stamped: classes said of them, ``(M,)`` int64.
    """

    label: NDArray[np.int64]
    clean: NDArray[np.int64]
    index: NDArray[np.int64]
    true: NDArray[np.int64]
    wanted: NDArray[np.int64]
    stamped: NDArray[np.int64]

    def __post_init__(self) -> None:
        if (self.true == self.wanted).any():
            raise ValueError("triggered images of the wanted class: expected images of others")

    @property
    def accuracy(self) -> Rate:
        """Share of the clean images that are named rightly."""
        return Rate(int((self.clean == self.label).sum()), len(self.label))

    @property
    def asr(self) -> Rate:
        """Attack success rate: share of the triggered images that are where the attacker wants."""
        return Rate(int((self.stamped == self.wanted).sum()), len(self.wanted))

    @property
    def ra(self) -> Rate:
        """Robust accuracy: share of the triggered images that are named rightly."""
        return Rate(int((self.stamped == self.true).sum()), len(self.true))


def measure(classifier: nn.Module, images: ImageSet, shown: Triggered, *, seed: int = 0) -> Facts:
    """Show a classifier clean and triggered test images.

    Cost: one pass an image; of a classifier that declares its randomness ``oracle.DRAWS``, and what
    they say is averaged.

    Args:
        classifier: images to logits; not changed.
        images: clean test images, those of all classes.
        shown: what ``triggered`` made of them.
        seed: names the noise of a random classifier.
    """
    return Facts(
        label=images.labels.numpy(),
        clean=_said(classifier, images, seed),
        index=shown.images.index,
        true=shown.images.labels.numpy(),
        wanted=shown.wanted.numpy(),
        stamped=_said(classifier, shown.images, seed),
    )


def _said(classifier: nn.Module, images: ImageSet, seed: int) -> NDArray[np.int64]:
    draws = DRAWS if random_modules(classifier) else 1
    whole = torch.full((len(images),), derive(seed, "backdoors"))
    keys = subkeys(whole, torch.from_numpy(images.index))
    found = []
    for rows in torch.arange(len(images)).split(2048):
        x, _ = images.batch(rows)
        found.append(said(predict(classifier, x, keys=keys[rows], draws=draws)))
    answers: NDArray[np.int64] = torch.cat(found).numpy()
    return answers


@dataclass(frozen=True)
class Estimate:
    """A number that is no rate, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Sifted:
    """How well a scan of training data tells the poison from the rest, where both are known.

    Attributes:
        caught: share of the poison that is flagged; ``None`` where there is none.
        alarms: share of all other images that are flagged, covers among them; ``None`` likewise.
        auc: how often a poisoned image has the higher score of the two; ``None`` where there is
            no pair.
    """

    caught: Rate | None
    alarms: Rate | None
    auc: Estimate | None


def sifted(found: Finding, rows: NDArray[np.int64]) -> Sifted:
    """Compare what a scan of data says of each image with what only the attacker knows.

    Args:
        found: what the scan of the poisoned images said.
        rows: positions of the poisoned ones among them, as in ``triggers.Poisoned``; may be none.

    Raises:
        ValueError: what a scan of a model found, or a position that it did not see.
    """
    if found.rows is None or found.flagged is None:
        raise ValueError("finding without rows: expected that of a scan of data")
    count = len(found.rows)
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(f"rows {rows.min()} to {rows.max()}: expected 0 to {count - 1}")
    poisoned = torch.zeros(count, dtype=torch.bool)
    poisoned[torch.from_numpy(rows)] = True
    caught, alarms = (
        Rate(int(found.flagged[part].sum()), int(part.sum())) if part.any() else None
        for part in (poisoned, ~poisoned)
    )
    if caught is None or alarms is None:
        return Sifted(caught, alarms, None)
    curve = roc(found.rows[~poisoned], found.rows[poisoned])
    return Sifted(caught, alarms, Estimate(curve.auc, curve.low, curve.high))


def fall(before: Rate, after: Rate) -> Estimate:
    r"""How far a rate has fallen, negative if it rose, with Newcombe's interval.

    .. math::
        d - \sqrt{(p_1 - l_1)^2 + (u_2 - p_2)^2} \;\le\; p_1 - p_2 \;\le\;
        d + \sqrt{(u_1 - p_1)^2 + (p_2 - l_2)^2}, \qquad d = \hat p_1 - \hat p_2

    with l and u the ends of the Wilson intervals (Newcombe, Statistics in Medicine 17, 1998, method
    10). It takes the two for independent. Of the same images before and after they mostly go
    together, and then the interval is wider than it need be.
    """
    (low, high), (least, most) = before.interval, after.interval
    value = before.value - after.value
    below = math.hypot(before.value - low, most - after.value)
    above = math.hypot(high - before.value, after.value - least)
    return Estimate(value, value - below, value + above)


def der(before: Facts, after: Facts) -> Estimate:
    r"""Defence effectiveness rating of a repair, in [0, 1]; 0.5 is that of doing nothing.

    .. math::
        \mathrm{DER} = \tfrac12 \bigl(\max(0, \Delta \mathrm{ASR})
        - \max(0, \Delta \mathrm{ACC}) + 1\bigr)

    with each difference that of before and after (arXiv:2304.11823, section 5.1). The interval
    puts those of the two falls together as ``fall`` does those of two rates.

    Raises:
        ValueError: the two are not about the same triggered images.
    """
    same = np.array_equal(before.index, after.index) and np.array_equal(before.wanted, after.wanted)
    if not same:
        raise ValueError("before and after: expected the same triggered images")
    won, lost = fall(before.asr, after.asr), fall(before.accuracy, after.accuracy)
    gain, cost = (
        Estimate(max(0.0, one.value), max(0.0, one.low), max(0.0, one.high)) for one in (won, lost)
    )
    value = gain.value - cost.value
    low = value - math.hypot(gain.value - gain.low, cost.high - cost.value)
    high = value + math.hypot(gain.high - gain.value, cost.value - cost.low)
    return Estimate(*((max(-1.0, min(1.0, end)) + 1) / 2 for end in (value, low, high)))
