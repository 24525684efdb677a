"""ANP: prune the channels by which a network gives way when its weights are disturbed."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import SGD, BatchLoss, Progress, cost_of, fit, silent
from bezoar.repairs.masks import (
    MOST,
    STATISTICS,
    Change,
    Masked,
    Masking,
    Statistics,
    Trial,
    trials,
)
from bezoar.repairs.protocol import Repair
from bezoar.repairs.rounds import joined, now_and_then
from bezoar.repairs.tolerance import lowest
from bezoar.snapshots import Snapshot

STEP = 0.05  # between thresholds, as in the paper's figures


@dataclass(frozen=True, kw_only=True)
class ANP(Repair):
    r"""Adversarial neuron pruning: mask what a disturbance of the channels turns against the net.

    .. math::
        \min_{m \in [0,1]}\; \alpha\, L(m, 0, 0) + (1 - \alpha) \max_{|d|, |s| \le \epsilon}
        L(m, d, s), \qquad (m + d)\, \gamma\, \hat x + (1 + s)\, \beta

    is what a batch norm gives, and L the mean cross-entropy of clean images. Weights stand still;
    masks learn, from 1, by SGD. Then scales are made zero where the mask is not above a threshold
    (shifts stay): the largest of 0, 0.05 ... 0.9 at which the accuracy on validation is no lower
    than ``tolerance.lowest`` allows. Paper: arXiv:2110.14430, section 4. In a network without
    batch norms the masks are on the convolutions and s on their biases.

    Masks are learnt with the statistics of batches, as in the released code. A batch norm that
    keeps its own hands a disturbance on to all layers behind it: in networks of 8 to 64 channels
    the worst one then leaves less than chance, and all masks fall together.

    Cost: an iteration is ``2 + steps`` passes each way an image of the batch; with ``eps=0`` or
    ``alpha=1`` it is 1. Some 20 forward passes a validation image while masks are learnt, and one
    for each threshold that has to be tried.

    Args:
        eps: radius of the disturbance, relative to the weights.
        alpha: weight of the loss without it, in [0, 1].
        steps: of sign ascent, from a random start, each ``eps / steps`` long.
        iterations: of SGD, rounded up to whole epochs.
        batch: images an iteration; the paper's is 128, of 500 images.
        lr: learning rate.
        momentum: see ``fit.SGD``.
        statistics: of batch norms while masks are learnt, ``"running"`` or ``"batch"``.
        tolerance: drop of the accuracy that is borne.
    """

    eps: float = 0.4
    alpha: float = 0.2
    steps: int = 1
    iterations: int = 2000
    batch: int = 32
    lr: float = 0.2
    momentum: float = 0.9
    statistics: Statistics = "batch"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.in_range("alpha", self.alpha, 0, 1)
        checks.at_least("steps", self.steps, 1)
        checks.at_least("iterations", self.iterations, 1)
        checks.at_least("batch", self.batch, 1)
        checks.in_range("lr", self.lr, 0)
        checks.known("statistics", self.statistics, STATISTICS)
        checks.in_range("tolerance", self.tolerance, 0, 1)
        SGD(momentum=self.momentum, weight_decay=0)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        """Repair; see ``defence.Defence``.

        Raises:
            ValueError: the network has neither batch norms nor convolutions.
        """
        meter, validation = Meter(), evidence.validation
        learning = Masking(
            Masked(deepcopy(classifier), self.statistics),
            evidence.train,
            loss=disturbed(self.eps, self.alpha, self.steps, meter),
            lr=self.lr,
            momentum=self.momentum,
            meter=meter,
        )
        epochs = math.ceil(self.iterations / math.ceil(len(evidence.train) / self.batch))
        log = fit(
            learning,
            epochs=epochs,
            batch=self.batch,
            seed=seed,
            judge=now_and_then(
                epochs, lambda: {"clean": accuracy(learning.model, validation, meter)}
            ),
            snapshot=snapshot,
            on_step=on_step,
        )
        begun, clean = time.monotonic(), log[0]["clean"]
        floor = lowest(clean, len(validation), self.tolerance)
        thresholds = [k * STEP for k in range(round(MOST / STEP), -1, -1)]
        tried = trials(classifier, list(learning.masks), thresholds, clean, validation, meter)
        none = Trial(-1.0, 0, clean, deepcopy(classifier).eval())
        best = next((trial for trial in tried if trial.clean >= floor), none)
        meter.seconds += time.monotonic() - begun
        row = {"clean": best.clean, "threshold": best.threshold, "pruned": float(best.pruned)}
        return Defended(best.classifier, joined(log, [{**row, **cost_of(meter)}]), meter)


def disturbed(eps: float, alpha: float, steps: int, meter: Meter) -> BatchLoss:
    """The loss of masks without and with the worst disturbance."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        assert isinstance(model, Masked)
        alone = eps == 0 or alpha == 1
        passes = (1 if alone else 2 + steps) * len(x)
        meter.forward += passes
        meter.backward += passes
        plain = F.cross_entropy(model(x), y)
        if alone:  # the other pass would be for nothing
            return plain
        changes = [torch.empty_like(mask).uniform_(-eps, eps) for mask in (*model.masks,) * 2]
        for _ in range(steps):
            changes = [change.requires_grad_() for change in changes]
            there = F.cross_entropy(model(x, _paired(changes)), y)
            slopes = torch.autograd.grad(there, changes, materialize_grads=True)
            changes = [
                (change + eps / steps * slope.sign()).clamp(-eps, eps).detach()
                for change, slope in zip(changes, slopes, strict=True)
            ]
        worst = F.cross_entropy(model(x, _paired(changes)), y)
        return alpha * plain + (1 - alpha) * worst

    return loss


def _paired(changes: list[Tensor]) -> list[Change]:
    """Changes of all scales, then of all shifts, layer by layer."""
    half = len(changes) // 2
    return [Change(*pair) for pair in zip(changes[:half], changes[half:], strict=True)]
