"""Smoothing: a network that learns to see through Gaussian noise, behind that noise."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import predict
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.fit import SCHEDULES, Judgement, Progress, Supervised, cost_of, fit, silent
from bezoar.guards.protocol import Guard
from bezoar.models import Smoothed
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class Smoothing(Guard):
    r"""Train a copy of the classifier on noisy images, and smooth it (arXiv:1902.02918).

    .. math::
        \min_\theta\; \mathrm{E}\, L\bigl(f_\theta(x + \sigma n), y\bigr), \qquad
        g(x) = \arg\max_c\; P\bigl(f_\theta(x + \sigma n) = c\bigr), \qquad n \sim N(0, I)

    The classifier stays as it is; what stands behind the noise is a copy that has learnt on, from
    its weights, because a network that never saw the noise knows nothing through it. The epoch that
    is kept is the best on validation, by the accuracy with one draw of noise an image, the same
    draws each time. ``certificates.certify`` says within which L2 radius the answer of g holds.

    Cost: an epoch is one pass each way an image, and one forward pass a validation image.

    Args:
        sigma: deviation of the noise, in pixel units of [0, 1]. More of it certifies larger radii
            of fewer images.
        epochs: budget; 0 smooths the copy as it is, for a network that has learnt with noise.
        batch: images a step.
        lr: learning rate of Adam.
        schedule: of the learning rate, a name in ``fit.SCHEDULES``.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    sigma: float = 0.25
    epochs: int = 10
    batch: int = 128
    lr: float = 1e-3
    schedule: str = "cosine"
    images: int = 0

    def __post_init__(self) -> None:
        checks.in_range("sigma", self.sigma, 0)
        checks.in_range("lr", self.lr, 0)
        checks.at_least("epochs", self.epochs, 0)
        checks.at_least("batch", self.batch, 1)
        checks.at_least("images", self.images, 0)
        checks.known("schedule", self.schedule, SCHEDULES)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        meter, network = Meter(), deepcopy(classifier).requires_grad_(True)
        smoothed = Smoothed(sigma=self.sigma, network=network)
        x, y = evidence.validation.at_most(self.images).batch(slice(None))

        def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            meter.forward += len(x)
            meter.backward += len(x)
            return F.cross_entropy(model(x + self.sigma * torch.randn_like(x)), y)

        def judge(epoch: int) -> Judgement:
            clean = (predict(smoothed, x).argmax(dim=1) == y).double().mean().item()
            meter.forward += len(x)
            return Judgement({"clean": clean}, score=clean)

        if self.epochs:
            schedule = SCHEDULES[self.schedule]
            log = fit(
                Supervised(
                    network, evidence.train, loss=loss, lr=self.lr, meter=meter, schedule=schedule
                ),
                epochs=self.epochs,
                batch=self.batch,
                seed=seed,
                judge=judge,
                snapshot=snapshot,
                on_step=on_step,
            )
        else:
            log = [{"round": 0.0, **judge(-1).row, **cost_of(meter)}]
        return Defended(smoothed.eval().requires_grad_(False), log, meter)
