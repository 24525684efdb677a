"""Where a repair has its triggered images from: values, one call each.

An oracle's figure is never to be compared with one of a defence that has clean images only, so the
kind of source stands in the log and in every table.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, frozen
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.scans.neural_cleanse import NeuralCleanse, inverted
from bezoar.seeds import generator
from bezoar.snapshots import Tree

Stamp = Callable[[Tensor], Tensor]
Kind = Literal["oracle", "recovered", "surrogate"]
GOLDEN = (5**0.5 - 1) / 2


class Source(Protocol):
    """A frozen dataclass of numbers; finds what puts a trigger, or its stand-in, on images."""

    kind: ClassVar[Kind]

    def find(self, classifier: nn.Module, evidence: Evidence, *, seed: int, meter: Meter) -> Tree:
        """What ``stamp`` needs, tensors and numbers.

        Args:
            classifier: the sick one; not changed.
            evidence: what the defender has.
            seed: names all randomness.
            meter: where the cost is counted.

        Raises:
            ValueError: the evidence has not got what it takes.
        """

    def stamp(self, found: Tree, evidence: Evidence) -> Stamp:
        """Images ``(N, C, H, W)`` to triggered images; ``found`` is what ``find`` gave."""

    def renewed(
        self, found: Tree, model: nn.Module, images: ImageSet, *, seed: int, meter: Meter
    ) -> Tree:
        """What was found, now that the classifier has learnt; the same where that tells nothing.

        Args:
            found: what ``find`` or this gave.
            model: the classifier as it is now; not changed.
            images: what it learns from.
            seed: names all randomness, another one each time.
            meter: where the cost is counted.
        """


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """The true trigger, which the evidence has to have: for studies, as in arXiv:2405.03918."""

    kind: ClassVar[Kind] = "oracle"

    def find(self, classifier: nn.Module, evidence: Evidence, *, seed: int, meter: Meter) -> Tree:
        if evidence.trigger is None:
            expected = "expected what the attacker knows, NAME.backdoor.safetensors of a planted"
            raise ValueError(f"source=oracle: evidence without a trigger: {expected} model")
        return {}

    def stamp(self, found: Tree, evidence: Evidence) -> Stamp:
        assert evidence.trigger is not None  # find has looked
        return evidence.trigger

    def renewed(
        self, found: Tree, model: nn.Module, images: ImageSet, *, seed: int, meter: Meter
    ) -> Tree:
        return found


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The smallest patch that Neural Cleanse finds, of the class that it suspects most.

    Good for patches. A trigger that covers the image is not found this way: what is recovered of it
    leads to the class all the same, but is another one.

    Args:
        scan: the search, see ``scans.NeuralCleanse``.
    """

    kind: ClassVar[Kind] = "recovered"
    scan: NeuralCleanse = field(default_factory=lambda: NeuralCleanse(epochs=40))

    def find(self, classifier: nn.Module, evidence: Evidence, *, seed: int, meter: Meter) -> Tree:
        triggers = inverted(self.scan, classifier, evidence.train, seed=seed, meter=meter)
        suspect = int(triggers.norms.argmin())
        found = {"mask": triggers.masks[suspect], "pattern": triggers.patterns[suspect]}
        return {**found, "suspect": suspect}

    def stamp(self, found: Tree, evidence: Evidence) -> Stamp:
        mask, pattern = found["mask"], found["pattern"]
        return lambda x: (1 - mask.to(x)) * x + mask.to(x) * pattern.to(x)

    def renewed(
        self, found: Tree, model: nn.Module, images: ImageSet, *, seed: int, meter: Meter
    ) -> Tree:
        return found


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    r"""A universal perturbation in place of the trigger, of the class to which one leads best.

    .. math::
        \delta_t = \arg\min_{\lVert\delta\rVert_\infty \le \epsilon} \ell_t(\delta, 1), \qquad
        \ell_t(\delta, u) = \frac1n\sum_i L\bigl(f(\mathrm{clip}(x_i + u_i \delta)), t\bigr)

    over the images of other classes, by Adam, all classes at once on a few images each a step. A
    backdoor is a direction in which a network gives way; whatever the trigger, a perturbation that
    is free to be anything tends to find it (arXiv:2110.03735 takes such for its stand-in).

    The class is that of the smallest loss. Where other classes are as good, which is within two
    standard errors of the paired differences, it is the one of them to which least leads: that of
    the smallest loss with strengths u spread evenly over [0, 1]. With these the perturbation is put
    on images, so that a faint trigger is unlearnt with a strong one.

    A network that has unlearnt one perturbation gives way to the next. So each epoch of tuning
    begins with ``again`` further steps against the network as it is then, and images are given one
    or other of all perturbations so far. Two are followed in this way: one that is free, and one
    without detail, of cells of ``coarse`` pixels that are enlarged bilinearly. Pixel by pixel a
    descent ends in noise, and to have unlearnt noise is not to have unlearnt what is smooth.

    Cost: ``steps * rows`` passes each way, at most ``2 * rows`` forward passes for each class, and
    ``2 * again * batch`` passes each way an epoch of tuning.

    Args:
        eps: radius in Linf, in pixel units of [0, 1].
        steps: of the descent.
        lr: of Adam, in pixel units.
        rows: perturbed images a step, over all classes.
        again: steps of each of the two before each epoch of tuning but the first.
        batch: images of such a step.
        coarse: side of the cells in pixels.
    """

    kind: ClassVar[Kind] = "surrogate"
    eps: float = 0.3
    steps: int = 40
    lr: float = 0.05
    rows: int = 128
    again: int = 5
    batch: int = 16
    coarse: int = 4

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0, 1)
        checks.in_range("lr", self.lr, 0)
        for name in ("steps", "rows", "batch"):
            checks.at_least(name, getattr(self, name), 1)
        checks.at_least("coarse", self.coarse, 2)
        checks.at_least("again", self.again, 0)

    def find(self, classifier: nn.Module, evidence: Evidence, *, seed: int, meter: Meter) -> Tree:
        begun, images, device = time.monotonic(), evidence.train, device_of(classifier)
        classes = torch.arange(len(images.classes), device=device)
        rng = generator(seed, "surrogate")
        delta = torch.zeros(len(classes), *images.shape, device=device)
        delta = self._descended(
            classifier, images, delta, classes, self.steps, self.rows, 1, rng=rng, meter=meter
        )
        some = torch.randperm(len(images), generator=rng)[: self.rows]
        others = images.labels[some] != classes[:, None].cpu()

        def lost(wanted: Tensor, strength: Tensor) -> Tensor:
            """Each image's loss towards each of these classes, ``(k, n)``."""
            meter.forward += len(wanted) * len(some)
            with torch.no_grad(), frozen(classifier):
                each = [
                    _loss(classifier, images, some, strength * delta[one], one.expand(len(some)))
                    for one in wanted
                ]
            return torch.stack(each).cpu()

        whole = torch.ones(len(some), 1, 1, 1, device=device)
        near = alike(lost(classes, whole), others)
        if len(near) > 1:
            faint = lost(classes[near], strengths(whole)).sum(dim=1) / others[near].sum(dim=1)
            near = near[faint.argmin()]
        suspect = int(near)
        meter.seconds += time.monotonic() - begun
        return {"delta": delta[suspect].cpu().clone(), "later": [], "suspect": suspect}

    def stamp(self, found: Tree, evidence: Evidence) -> Stamp:
        every = torch.stack([found["delta"], *found["later"]])

        def stamped(x: Tensor) -> Tensor:
            own = every[torch.arange(len(x)) % len(every)].to(x)
            return (x + strengths(x) * own).clamp(0, 1)

        return stamped

    def renewed(
        self, found: Tree, model: nn.Module, images: ImageSet, *, seed: int, meter: Meter
    ) -> Tree:
        if not self.again or not (images.labels != found["suspect"]).any():
            return found
        begun, device = time.monotonic(), device_of(model)
        wanted = torch.tensor([found["suspect"]], device=device)
        later = list(found["later"])
        for side in (1, self.coarse):
            last = later[-2] if len(later) > 1 else found["delta"]  # the last one of this kind
            rng = generator(seed, "surrogate", "again", side)
            delta = self._descended(
                model,
                images,
                last[None].to(device),
                wanted,
                self.again,
                self.batch,
                side,
                rng=rng,
                meter=meter,
            )
            later.append(delta[0].cpu().clone())
        meter.seconds += time.monotonic() - begun
        return {**found, "later": later}

    def _descended(
        self,
        classifier: nn.Module,
        images: ImageSet,
        delta: Tensor,
        classes: Tensor,
        steps: int,
        rows: int,
        side: int,
        *,
        rng: torch.Generator,
        meter: Meter,
    ) -> Tensor:
        """Perturbations ``(k, C, H, W)`` towards k classes after some steps of Adam on cells."""
        each = max(1, rows // len(classes))
        height, width = delta.shape[-2:]
        cells = F.adaptive_avg_pool2d(delta, (-(-height // side), -(-width // side)))
        cells.requires_grad_()
        adam = torch.optim.Adam([cells], lr=self.lr)

        def enlarged() -> Tensor:
            return F.interpolate(cells, size=(height, width), mode="bilinear")

        targets = classes.repeat_interleave(each)
        with frozen(classifier):
            for _ in range(steps):
                drawn = torch.randint(len(images), (len(targets),), generator=rng)
                own = enlarged().repeat_interleave(each, 0)
                loss = _loss(classifier, images, drawn, own, targets)
                meter.forward += len(drawn)
                meter.backward += len(drawn)
                (cells.grad,) = torch.autograd.grad(loss.sum() / each, cells)
                adam.step()
                with torch.no_grad():
                    cells.clamp_(-self.eps, self.eps)
        return enlarged().detach()


def alike(lost: Tensor, others: Tensor) -> Tensor:
    """The rows whose mean loss is the smallest, or is not told from it by the same images.

    Args:
        lost: losses ``(k, n)``, zero where they do not count.
        others: which images count, ``(k, n)``.
    """
    means = lost.sum(dim=1) / others.sum(dim=1)
    best = int(torch.where(others.any(dim=1), means, torch.inf).argmin())
    shared = others & others[best]
    count = shared.sum(dim=1)
    gaps = (lost - lost[best]) * shared
    mean = gaps.sum(dim=1) / count
    deviation = (((gaps - mean[:, None]) * shared).square().sum(dim=1) / (count - 1)).sqrt()
    near = mean <= 2 * deviation / count.sqrt()  # of few images nothing is told: NaN is not near
    near[best] = True
    return near.nonzero().flatten()


def strengths(x: Tensor) -> Tensor:
    """Numbers in [0, 1) for the images of a batch, ``(N, 1, 1, 1)``, evenly spread.

    The fractional parts of the multiples of the golden ratio: any few in turn lie far apart.
    """
    number = torch.arange(1, len(x) + 1, dtype=torch.float64)
    return (number * GOLDEN % 1)[:, None, None, None].to(x)


def _loss(
    classifier: nn.Module, images: ImageSet, rows: Tensor, delta: Tensor, targets: Tensor
) -> Tensor:
    """Cross-entropy towards the targets ``(N,)``; zero for images that are of that class."""
    x, y = (part.to(delta.device) for part in images.batch(rows))
    loss = F.cross_entropy(classifier((x + delta).clamp(0, 1)), targets, reduction="none")
    return loss * (y != targets)
