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


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    r"""A universal perturbation in place of the trigger, of the class to which one leads best.

    .. math::
        \delta_t = \arg\min_{\lVert\delta\rVert_\infty \le \epsilon}
        \frac1n\sum_i L\bigl(f(\mathrm{clip}(x_i + \delta)), t\bigr), \qquad
        \hat t = \arg\min_t \min_\delta(\cdot)

    over the images of other classes, by Adam, all classes at once on a few images each a step. A
    backdoor is a direction in which a network gives way; whatever the trigger, a perturbation that
    is free to be anything tends to find it (arXiv:2110.03735 takes such for its stand-in).

    Cost: ``steps * rows`` passes each way, and one forward pass for each class and image.

    Args:
        eps: radius in Linf, in pixel units of [0, 1].
        steps: of the descent.
        lr: of Adam, in pixel units.
        rows: perturbed images a step, over all classes.
    """

    kind: ClassVar[Kind] = "surrogate"
    eps: float = 0.15
    steps: int = 60
    lr: float = 0.02
    rows: int = 256

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0, 1)
        checks.in_range("lr", self.lr, 0)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("rows", self.rows, 1)

    def find(self, classifier: nn.Module, evidence: Evidence, *, seed: int, meter: Meter) -> Tree:
        begun, images, device = time.monotonic(), evidence.train, device_of(classifier)
        classes = len(images.classes)
        each = max(1, self.rows // classes)
        wanted = torch.arange(classes, device=device)
        delta = torch.zeros(classes, *images.shape, device=device, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=self.lr)
        rng = generator(seed, "surrogate")
        with frozen(classifier):
            for _ in range(self.steps):
                rows = torch.randint(len(images), (classes * each,), generator=rng)
                targets = wanted.repeat_interleave(each)
                loss = _loss(classifier, images, rows, delta.repeat_interleave(each, 0), targets)
                meter.forward += len(rows)
                meter.backward += len(rows)
                (delta.grad,) = torch.autograd.grad(loss.sum() / each, delta)
                adam.step()
                with torch.no_grad():
                    delta.clamp_(-self.eps, self.eps)
            with torch.no_grad():
                every = torch.arange(len(images))
                losses = []
                for t in range(classes):
                    part = delta[t].expand(len(images), *images.shape)
                    each_loss = _loss(classifier, images, every, part, wanted[t].expand(len(every)))
                    others = (images.labels != t).sum().clamp_min(1).to(device)
                    losses.append(each_loss.sum() / others)
                    meter.forward += len(images)
        suspect = int(torch.stack(losses).argmin())
        meter.seconds += time.monotonic() - begun
        return {"delta": delta[suspect].detach().cpu().clone(), "suspect": suspect}

    def stamp(self, found: Tree, evidence: Evidence) -> Stamp:
        delta = found["delta"]
        return lambda x: (x + delta.to(x)).clamp(0, 1)


def _loss(
    classifier: nn.Module, images: ImageSet, rows: Tensor, delta: Tensor, targets: Tensor
) -> Tensor:
    """Cross-entropy towards the targets ``(N,)``; zero for images that are of that class."""
    x, y = (part.to(delta.device) for part in images.batch(rows))
    loss = F.cross_entropy(classifier((x + delta).clamp(0, 1)), targets, reduction="none")
    return loss * (y != targets)
