"""RNP: unlearn what is clean, learn which channels bring it back, prune those that do not."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile

import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import (
    SGD,
    BatchLoss,
    Judgement,
    Progress,
    Supervised,
    clipped,
    cost_of,
    fit,
    silent,
)
from bezoar.repairs.masks import (
    MOST,
    STATISTICS,
    Masked,
    Masking,
    Statistics,
    Trial,
    scales,
    trials,
)
from bezoar.repairs.protocol import Repair
from bezoar.repairs.rounds import joined
from bezoar.repairs.tolerance import lowest
from bezoar.seeds import derive
from bezoar.snapshots import Snapshot, Stages, Tree

STEP = 0.02  # between thresholds


@dataclass(frozen=True, kw_only=True)
class RNP(Repair):
    r"""Reconstructive neuron pruning: three parts, of which the last changes the classifier.

    .. math::
        \hat\theta = \arg\max_\theta \mathrm{E}\, L\bigl(f_\theta(x), y\bigr), \qquad
        m = \arg\min_{m \in [0,1]} \alpha\, \mathrm{E}\, L\bigl(f_{m \odot \hat\theta}(x), y\bigr),
        \qquad \gamma_k := 0 \text{ where } m_k \le t

    A copy unlearns clean images, by ascent until it names few of them rightly; what is left of it
    is mostly the backdoor. Masks on the scales of its batch norms then learn to bring the images
    back, and turn down what serves the backdoor alone. These channels are pruned in the *original*,
    whose other weights stay as they are. The threshold t is raised by 0.02, up to 0.9, as long as
    the accuracy on validation is no lower than ``tolerance.lowest`` allows. In a network without
    batch norms the masks are on the convolutions. Paper: arXiv:2305.14876, section 3.

    Cost: an epoch of either part is one pass each way an image and one forward pass a validation
    image, and an epoch of unlearning another forward pass an image. One forward pass a validation
    image for each threshold that has to be tried.

    Args:
        unlearn_epochs: budget of the ascent.
        least: accuracy on the training images, in eval mode, at which the ascent is done.
        unlearn_lr: its learning rate.
        momentum, weight_decay: of the ascent, see ``fit.SGD``; masks have the same momentum.
        clip: largest norm of its gradient over all weights.
        recover_epochs: of the masks.
        recover_lr: their learning rate.
        alpha: factor on their loss, above 0.
        batch: images a step; with 32 a defender's 90 images are as many steps an epoch as 500 of
            the paper with 128.
        statistics: of batch norms while masks are learnt, ``"running"`` or ``"batch"``.
        tolerance: drop of the accuracy that is borne.
    """

    unlearn_epochs: int = 20
    least: float = 0.2
    unlearn_lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 20.0
    recover_epochs: int = 20
    recover_lr: float = 0.2
    alpha: float = 0.2
    batch: int = 32
    statistics: Statistics = "batch"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        checks.at_least("unlearn_epochs", self.unlearn_epochs, 1)
        checks.in_range("least", self.least, 0, 1)
        checks.in_range("unlearn_lr", self.unlearn_lr, 0)
        checks.in_range("clip", self.clip, 0)
        checks.at_least("recover_epochs", self.recover_epochs, 1)
        checks.in_range("recover_lr", self.recover_lr, 0)
        checks.in_range("alpha", self.alpha, 0)
        checks.at_least("batch", self.batch, 1)
        checks.known("statistics", self.statistics, STATISTICS)
        checks.in_range("tolerance", self.tolerance, 0, 1)
        SGD(momentum=self.momentum, weight_decay=self.weight_decay)

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
            FloatingPointError: the ascent went too far; lower ``unlearn_lr`` or ``clip``.
        """
        scales(classifier)  # refuses before anything is learnt
        meter, stages, validation = Meter(), Stages(snapshot), evidence.validation

        def unlearn(part: Snapshot | None) -> Tree:
            return self._unlearnt(classifier, evidence, seed, meter, part, on_step)

        first = stages("unlearn", unlearn)
        vars(meter).update(first["meter"])

        def recover(part: Snapshot | None) -> Tree:
            copy = deepcopy(classifier)
            copy.load_state_dict(first["model"])
            return self._recovered(copy, evidence, seed, meter, part, on_step)

        second = stages("recover", recover)
        vars(meter).update(second["meter"])

        begun, clean = time.monotonic(), first["log"][0]["clean"]
        floor = lowest(clean, len(validation), self.tolerance)
        thresholds = [k * STEP for k in range(round(MOST / STEP) + 1)]
        tried = trials(classifier, second["masks"], thresholds, clean, validation, meter)
        best = Trial(-1.0, 0, clean, deepcopy(classifier).eval())
        for trial in takewhile(lambda trial: trial.clean >= floor, tried):
            best = trial
        meter.seconds += time.monotonic() - begun
        row = {"clean": best.clean, "threshold": best.threshold, "pruned": float(best.pruned)}
        log = joined(first["log"], second["log"], [{**row, **cost_of(meter)}])
        return Defended(best.classifier, log, meter)

    def _unlearnt(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        seed: int,
        meter: Meter,
        snapshot: Snapshot | None,
        on_step: Callable[[Progress], None],
    ) -> Tree:
        """The copy that has unlearnt clean images."""
        learning = Supervised(
            deepcopy(classifier),
            evidence.train,
            loss=scaled_loss(-1.0, meter),
            lr=self.unlearn_lr,
            optimize=clipped(
                SGD(momentum=self.momentum, weight_decay=self.weight_decay), self.clip
            ),
            meter=meter,
        )

        def judge(epoch: int) -> Judgement:
            train, clean = (
                accuracy(learning.model, images, meter)
                for images in (evidence.train, evidence.validation)
            )
            return Judgement({"clean": clean, "train": train}, stop=train <= self.least)

        log = fit(
            learning,
            epochs=self.unlearn_epochs,
            batch=self.batch,
            seed=derive(seed, "unlearn"),
            judge=judge,
            snapshot=snapshot,
            on_step=on_step,
        )
        return {"model": learning.model.state_dict(), "log": log, "meter": meter.as_dict()}

    def _recovered(
        self,
        unlearnt: nn.Module,
        evidence: Evidence,
        seed: int,
        meter: Meter,
        snapshot: Snapshot | None,
        on_step: Callable[[Progress], None],
    ) -> Tree:
        """The masks under which it names clean images again."""
        learning = Masking(
            Masked(unlearnt, self.statistics),
            evidence.train,
            loss=scaled_loss(self.alpha, meter),
            lr=self.recover_lr,
            momentum=self.momentum,
            meter=meter,
        )

        def judge(epoch: int) -> Judgement:
            if epoch < 0:  # what comes in here was judged at the end of the first part
                return Judgement({})
            return Judgement({"clean": accuracy(learning.model, evidence.validation, meter)})

        log = fit(
            learning,
            epochs=self.recover_epochs,
            batch=self.batch,
            seed=derive(seed, "recover"),
            judge=judge,
            snapshot=snapshot,
            on_step=on_step,
        )
        masks = [mask.detach() for mask in learning.masks]
        return {"masks": masks, "log": log, "meter": meter.as_dict()}


def scaled_loss(factor: float, meter: Meter) -> BatchLoss:
    """The mean cross-entropy times a factor; below zero, descent on it is ascent on the loss."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        meter.forward += len(x)
        meter.backward += len(x)
        return factor * F.cross_entropy(model(x), y)

    return loss
