"""What a detector is worth: against an attacker who ignores it, and against one who evades it.

A detector is a classifier with ``score(x)`` and ``threshold``, see ``classifier``. An attacker has
won where it says the wrong class and does not reject the image. Scores, classes and rejections are
found out here, on the detector itself, and not taken from an attack.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import checks
from bezoar import classifier as classifiers
from bezoar.attacks import Attack, Targeted
from bezoar.attacks.engine import search
from bezoar.attacks.oracle import DRAWS
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.referee import measure, name_of
from bezoar.results import Rate
from bezoar.seeds import Noise, subkeys

NORMAL = 1.959963984540054  # half the width of a 95 % interval, in deviations
SMALLEST = 1e-12  # threshold that a score is measured by


def require(model: nn.Module) -> Any:
    """Require a detector, and hand it back.

    Raises:
        TypeError: a classifier without a score or a threshold.
    """
    if not (callable(getattr(model, "score", None)) and hasattr(model, "threshold")):
        found = f"{type(model).__name__} without score and threshold"
        hint = "guards such as `squeezing`, `magnet` and `strip` make one"
        raise TypeError(f"{found}: expected a detector; {hint}")
    return model


def scores(
    model: nn.Module,
    x: Tensor,
    *,
    keys: Tensor | None = None,
    draws: int = 1,
    batch: int = 256,
) -> Tensor:
    """How suspicious a detector finds each image, ``(N,)`` on the CPU, without gradients.

    Arguments as in ``classifier.predict``; what several draws give is the mean.

    Raises:
        TypeError: no detector.
    """
    detector, device = require(model), classifiers.device_of(model)
    keys = torch.arange(len(x)) if keys is None else keys
    found = []
    with torch.no_grad(), classifiers.frozen(model):
        for part, own in zip(x.split(batch), keys.split(batch), strict=True):
            each = []
            for draw in range(draws):
                with classifiers.reseeded(model, subkeys(own.to(device), draw)):
                    each.append(detector.score(part.to(device)))
            found.append(torch.stack(each).mean(dim=0).cpu())
    return torch.cat(found)


def alarmed(model: nn.Module, images: ImageSet, fpr: float, passes: int, meter: Meter) -> None:
    """Set the threshold of a detector, in place: the lowest that rejects few clean images.

    Args:
        model: a detector.
        images: clean ones, of which no test is made.
        fpr: share of them that may be rejected, in [0, 1).
        passes: what a score costs an image.
        meter: where that and the time is counted.

    Raises:
        TypeError: no detector.
    """
    begun = time.monotonic()
    x, _ = images.batch(slice(None))
    draws = DRAWS if classifiers.random_modules(model) else 1
    require(model).threshold.copy_(threshold_of(scores(model, x, draws=draws), fpr))
    meter.forward += passes * draws * len(x)
    meter.seconds += time.monotonic() - begun


def threshold_of(clean: Tensor, fpr: float) -> Tensor:
    """The lowest of the scores ``(N,)`` above which no more than a share ``fpr`` of them lies.

    >>> threshold_of(torch.tensor([3.0, 1.0, 4.0, 2.0]), 0.25)
    tensor(3.)
    """
    allowed = min(math.floor(fpr * len(clean)), len(clean) - 1)
    return clean.sort(descending=True).values[allowed]


@dataclass(frozen=True, eq=False)
class Curve:
    """How well scores tell attacked images from clean ones, at every threshold.

    Attributes:
        fpr: share of the clean images above it, ``(T,)``, increasing from 0 to 1.
        tpr: share of the attacked ones, ``(T,)``.
        auc: area under the curve: how often an attacked image has the higher score.
        low, high: its 95 % interval, see ``interval``.
        clean, attacked: how many images there are.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    auc: float
    low: float
    high: float
    clean: int
    attacked: int


def roc(clean: Tensor, attacked: Tensor) -> Curve:
    """The curve of the scores of clean images ``(N,)`` and attacked ones ``(M,)``.

    Raises:
        ValueError: no image of one kind, or a score that is not finite.
    """
    for name, found in (("clean", clean), ("attacked", attacked)):
        if not len(found) or not found.isfinite().all():
            raise ValueError(f"{name}: {len(found)} scores: expected one at least, all finite")
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.repeat([0, 1], [len(clean), len(attacked)])
    values = torch.cat([clean, attacked]).double().numpy()
    fpr, tpr, _ = roc_curve(truth, values)
    auc = float(roc_auc_score(truth, values))
    low, high = interval(auc, len(attacked), len(clean))
    return Curve(fpr, tpr, auc, low, high, len(clean), len(attacked))


def interval(auc: float, attacked: int, clean: int) -> tuple[float, float]:
    r"""The 95 % interval of an area under a curve, from the counts alone.

    The areas :math:`\theta` that a test with the variance of Hanley and McNeil (1982) does not
    refuse:

    .. math::
        (\hat\theta - \theta)^2 \le z^2\, \frac{\theta (1 - \theta)}{m n}
        \Bigl[1 + (m - 1) \frac{1 - \theta}{2 - \theta} + (n - 1) \frac{\theta}{1 + \theta}\Bigr]

    As Wilson's interval for a rate it keeps a width at 0 and 1. Images count as independent, though
    attacked ones are made of clean ones.
    """
    return _lowest(auc, attacked, clean), 1 - _lowest(1 - auc, clean, attacked)


def _lowest(auc: float, m: int, n: int) -> float:
    """The lower end; the upper one is that of the areas above the curve."""
    from scipy.optimize import brentq

    if auc == 0:
        return 0.0

    def gap(area: float) -> float:
        spread = 1 + (m - 1) * (1 - area) / (2 - area) + (n - 1) * area / (1 + area)
        return (auc - area) ** 2 - NORMAL**2 * area * (1 - area) * spread / (m * n)

    return float(brentq(gap, 0, auc * (1 - 1e-9)))


class Watched(nn.Module):
    r"""A detector as a classifier with one class more, "rejected".

    .. math::
        z_{K+1} = \max_i z_i + (\max_i z_i - \min_i z_i)\; u(s / \tau), \qquad
        u(r) = \begin{cases} r - 1 & r \le 1 \\ \log r & r > 1 \end{cases}

    with s the score and :math:`\tau` the threshold, so the last logit is the largest just where the
    image is rejected. An attack that leads to a wrong class evades the detector with it, as in
    arXiv:1705.07263, section 2.4. There the last logit is a multiple of the largest one, which
    must be above 0 for it. Here an image without any score has the lowest logit, and one of many
    times the threshold no more than some spans above the highest. The span carries no gradient.
    Cost: a pass and a score.

    Args:
        model: a detector; kept as it is.

    Raises:
        TypeError: no detector.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = require(model)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K + 1)``."""
        logits = self.model(x)
        highest = logits.amax(dim=1)
        span = (highest - logits.amin(dim=1)).detach()
        threshold = self.model.threshold
        over = (self.model.score(x) - threshold) / threshold.clamp(min=SMALLEST)
        bent = torch.where(over > 0, over.clamp(min=0).log1p(), over)
        return torch.cat([logits, (highest + span * bent)[:, None]], dim=1)


@dataclass(frozen=True, eq=False)
class Judged:
    """What a detector says about some images, an entry an image.

    Attributes:
        x: the images, ``(N, C, H, W)``.
        label: true class, ``(N,)`` int64.
        said: class that it names, ``(N,)`` int64; -1 where its output is not finite.
        score: how suspicious it finds them, ``(N,)``.
        rejected: whether that is above its threshold, ``(N,)`` bool.
    """

    x: Tensor
    label: Tensor
    said: Tensor
    score: Tensor
    rejected: Tensor

    @property
    def wrong(self) -> Tensor:
        """Whether the class is not the true one, ``(N,)`` bool."""
        return self.said != self.label

    @property
    def right(self) -> Rate:
        """Share of all images that are named rightly, rejected or not: of clean ones, accuracy."""
        return Rate(int((~self.wrong).sum()), len(self.x))

    @property
    def evaded(self) -> Tensor:
        """Whether the class is wrong and the image is not rejected, ``(N,)`` bool."""
        return self.wrong & ~self.rejected

    @property
    def standing(self) -> Rate:
        """Share of the images that are named rightly or rejected."""
        return Rate(int((~self.evaded).sum()), len(self.x))

    @property
    def alarms(self) -> Rate:
        """Share of all images that are rejected: of clean ones, the false positives."""
        return Rate(int(self.rejected.sum()), len(self.x))

    @property
    def caught(self) -> Rate | None:
        """Share of the wrongly named images that are rejected; nothing where there is none."""
        wrong = int(self.wrong.sum())
        return Rate(int((self.wrong & self.rejected).sum()), wrong) if wrong else None

    def worse(self, other: "Judged") -> "Judged":
        """Of each image the one that is better for the attacker: wrong first, then less suspect."""
        better = other.wrong & (~self.wrong | (other.score < self.score))

        def chosen(name: str) -> Tensor:
            own, new = getattr(self, name), getattr(other, name)
            return torch.where(better.reshape(-1, *[1] * (own.ndim - 1)), new, own)

        return Judged(**{name: chosen(name) for name in vars(self)})


def judged(model: nn.Module, x: Tensor, images: ImageSet, *, seed: int) -> Judged:
    """Let a detector judge versions ``x`` of all ``images``, with the noise of the referee.

    Raises:
        TypeError: no detector.
    """
    keys = Noise.first(seed, f"judge/{images.name}", images.index).keys()
    draws = DRAWS if classifiers.random_modules(model) else 1
    score = scores(model, x, keys=keys, draws=draws)
    logits = classifiers.predict(model, x, keys=keys, draws=draws)
    rejected = score > require(model).threshold.cpu()
    return Judged(x, images.labels, classifiers.said(logits), score, rejected)


def unaware(attack: Attack, model: nn.Module, images: ImageSet, *, seed: int) -> Judged:
    """What an attacker finds who knows the classifier and not that it rejects images.

    Raises:
        TypeError: no detector.
        ValueError: as ``referee.measure``.
    """
    found = measure(attack, require(model), images, seed=seed)
    return judged(model, torch.from_numpy(found.x_adv), images, seed=seed)


def evading(
    attack: Attack,
    model: nn.Module,
    images: ImageSet,
    *,
    seed: int,
    ranks: int = 2,
    begun: Judged | None = None,
) -> Judged:
    """What an attacker finds who wants a wrong class and no rejection (arXiv:1705.07263).

    He leads ``Watched`` to the wrong classes of the highest logits on the clean image, one after
    the other, and has the best of what he found for each image: one that evades, or else of those
    that are named wrongly the one with the lowest score.

    Cost: that of the attack for each rank, on the images that stood until then, on ``Watched``.

    Args:
        attack: the method; it must be able to lead to one class.
        model: a detector; not changed.
        images: what it is attacked on.
        seed: names the noise.
        ranks: how many wrong classes are tried.
        begun: what he has already, as from ``unaware``; by default the clean images.

    Raises:
        TypeError: no detector.
        ValueError: an attack that cannot lead to a class, or more ranks than wrong classes.
    """
    checks.at_least("ranks", ranks, 1)
    wrong = len(images.classes) - 1
    if ranks > wrong:
        raise ValueError(f"ranks={ranks!r}: expected at most {wrong}, the number of wrong classes")
    x, y = images.batch(slice(None))
    prepared = classifiers.prepare(Watched(model), x[:4])
    draws = DRAWS if classifiers.random_modules(model) else 1
    logits = classifiers.predict(model, x, draws=draws).scatter(1, y[:, None], -float("inf"))
    targets = logits.argsort(dim=1, descending=True, stable=True)
    found = begun or judged(model, x, images, seed=seed)
    device = classifiers.device_of(model)
    for rank in range(ranks):
        left = (~found.evaded).nonzero().squeeze(1)
        if not len(left):
            break
        rows = left.numpy()
        stream = f"{name_of(attack)}/{images.name}/evading {rank}"
        noise = Noise.first(seed, stream, images.index[rows])
        goal = Targeted(targets[left, rank].to(device))
        x_adv = found.x.clone()
        x_adv[left] = search(attack, prepared, x[left], goal, noise, draws=draws).x_adv
        found = found.worse(judged(model, x_adv, images, seed=seed))
    return found


@dataclass(frozen=True, eq=False)
class Detection:
    """What a detector says about clean images and about those of two attackers.

    Attributes:
        clean: the images as they are.
        unaware: those of an attacker who does not know that images are rejected.
        knowing: those of one who does. He stops below the threshold that he was given, so the area
            under his curve says little about what he can do; ``standing`` does.
    """

    clean: Judged
    unaware: Judged
    knowing: Judged

    def curve(self, found: Judged) -> Curve | None:
        """The curve of all clean images and the wrongly named attacked ones; none without any."""
        return roc(self.clean.score, found.score[found.wrong]) if found.wrong.any() else None


def detect(
    attack: Attack, model: nn.Module, images: ImageSet, *, seed: int, ranks: int = 2
) -> Detection:
    """Measure a detector against an attacker who ignores it and one who evades it.

    The second begins with what the first found, so he never does worse. Arguments, cost and errors
    as in ``evading``.
    """
    require(model)
    x, _ = images.batch(slice(None))
    classifiers.require(model, x[:8], len(images.classes))
    clean = judged(model, x, images, seed=seed)
    first = unaware(attack, model, images, seed=seed)
    second = evading(attack, model, images, seed=seed, ranks=ranks, begun=first)
    return Detection(clean, first, second)
