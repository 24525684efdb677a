"""What a scan is, and what it hands back: of a model, of its training data.

What looks at one image at a time, while the model is in use, is a guard with a score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bezoar.classifier import prepare, require
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """What a scan says of a model, or of the data that a model was trained on.

    Attributes:
        score: how suspicious the whole is; higher is more.
        threshold: the score above which it is accused.
        suspect: the class that triggered images are said to get; ``None`` where a scan cannot say,
            and where it accuses nobody.
        p_value: how likely such a score is without a backdoor; ``None`` without a null model.
        classes: score of each class, ``(K,)``; the higher, the more suspicious. ``None`` for a scan
            that does not tell them apart.
        pattern: the recovered trigger, ``(C, H, W)`` in [0, 1], where there is one.
        mask: how much of it lies over the image, ``(1, H, W)`` in [0, 1].
        rows: of data, how suspicious each image is, ``(N,)``; of a model ``None``.
        flagged: of data, which of them are said to be poison, ``(N,)`` bool.
        cost: what was spent.
    """

    score: float
    threshold: float
    suspect: int | None = None
    p_value: float | None = None
    classes: Tensor | None = None
    pattern: Tensor | None = None
    mask: Tensor | None = None
    rows: Tensor | None = None
    flagged: Tensor | None = None
    cost: Meter

    @property
    def accused(self) -> bool:
        """Whether the scan says that there is a backdoor."""
        return self.score > self.threshold


class ModelScan(Protocol):
    """A frozen dataclass of numbers; a call looks for a backdoor in a model."""

    @property
    def blind(self) -> bool:
        """Whether it looks at the model alone; then the pixels and labels given are not seen."""
        return False

    def __call__(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        """Look for a backdoor.

        Args:
            classifier: images to logits; not changed.
            images: clean ones that the reviewer trusts; a ``blind`` scan takes their shape only.
            seed: names all randomness.
            on_step: told how far the scan is.

        Raises:
            ValueError: a classifier of fewer than three classes where classes are compared, or one
                that the scan cannot look into.
        """


class DataScan(Protocol):
    """A frozen dataclass of numbers; a call looks for poison in training data.

    It sees them through a model that was trained on them, in most papers the suspect's own.
    """

    def __call__(
        self,
        classifier: nn.Module,
        suspects: ImageSet,
        trusted: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        """Look for poison.

        Args:
            classifier: images to logits; not changed.
            suspects: the training images, with the labels that they were trained on.
            trusted: clean images with true labels; methods that need none leave them aside.
            seed: names all randomness.
            on_step: told how far the scan is.
        """


def comparable(classifier: nn.Module, images: ImageSet, probe: Tensor, meter: Meter) -> nn.Module:
    """The copy of a classifier that a scan asks; refused where it has no classes to compare.

    Cost: one forward pass of each of the first two images of ``probe``.

    Args:
        classifier: images to logits; not changed.
        images: how many classes there are.
        probe: some images ``(N, C, H, W)``, made up ones for a scan that is ``blind``.
        meter: where the cost is counted.

    Raises:
        ValueError: fewer than three classes, images that the classifier does not take, or logits
            that are not one a class and finite.
    """
    classes = len(images.classes)
    if classes < 3:
        expected = "expected at least three, of which one can differ from the others"
        raise ValueError(f"classifier of {classes} classes: {expected}")
    require(classifier, probe, classes)
    meter.forward += len(probe[:2])
    return prepare(classifier, probe[:2])


CONSISTENT = 1.4826  # makes the median absolute deviation that of a normal distribution


def anomaly(values: Tensor, *, least: float = 1e-12) -> Tensor:
    r"""How far each value lies above the others, in deviations by the median: ``(K,)`` to ``(K,)``.

    .. math::
        \frac{v_k - \mathrm{med}(v)}{1.4826\;\mathrm{med}\,\lvert v - \mathrm{med}(v)\rvert}

    For what is suspicious when it is small, give the negative values.

    Args:
        values: one a class, or one an image.
        least: the deviation is taken for no smaller; to how much the values are known.

    >>> anomaly(torch.tensor([1.0, 2.0, 3.0, 4.0, 103.0]))
    tensor([-1.3490, -0.6745,  0.0000,  0.6745, 67.4491])
    """
    values = values.double()
    middle = _median(values)
    spread = CONSISTENT * _median((values - middle).abs())
    scaled: Tensor = (values - middle) / spread.clamp_min(least)
    return scaled.float()


def _median(values: Tensor) -> Tensor:
    """That of an even number lies between the middle two; torch's own takes the lower."""
    return torch.quantile(values, 0.5)


def outlying(values: Tensor, *, least: float = 1e-12) -> float:
    r"""How likely the largest of normal values ``(K,)`` lies so far out: Grubbs' test.

    .. math::
        p = \min\bigl(1,\; K\, P(t_{K-2} > T)\bigr), \qquad
        T = \frac{\max_k v_k - \bar v}{s \sqrt{1 + 1 / (K - 1)}}

    with the mean and the deviation of all but the largest. It counts that the largest was looked
    for, and that mean and deviation are estimates, which the index of ``anomaly`` does not: among
    10 normal values that index passes 2 in every third case.

    Args:
        values: finite, three or more.
        least: s is taken for no smaller; to how much the values are known.

    Returns:
        The p-value, at most 1.
    """
    from scipy.stats import t

    ordered = values.double().sort().values
    others, count = ordered[:-1], len(ordered)
    spread = max(others.std().item(), least) * (1 + 1 / (count - 1)) ** 0.5
    distance = (ordered[-1] - others.mean()).item() / spread
    return min(1.0, count * float(t.sf(distance, count - 2)))
