"""ABL: find the images that are learnt too easily, and unlearn them."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import predict
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import SGD, BatchLoss, Judgement, Progress, Supervised, cost_of, fit, silent
from bezoar.models import restart
from bezoar.repairs.protocol import Repair
from bezoar.seeds import derive
from bezoar.snapshots import Snapshot, Stages, Tree


@dataclass(frozen=True, kw_only=True)
class ABL(Repair):
    r"""Isolate the training images with the lowest loss early on, and raise their loss again.

    A copy with new weights learns the suspects for some epochs, and never better than to the loss
    :math:`\gamma` on average, so that only what is easier than the rest gets below it:

    .. math::
        \min_\phi\; \mathrm{sign}\bigl(L - \gamma\bigr)\, L, \qquad
        L = \mathrm{E}\, L\bigl(f_\phi(x), y\bigr)

    of each batch. The ``share`` of the suspects with the lowest loss, :math:`D_b`, is then
    unlearnt by the classifier, and as many of the rest go on being learnt:

    .. math::
        \min_\theta\; \mathrm{E}_{D \setminus D_b} L\bigl(f_\theta(x), y\bigr)
        - \mathrm{E}_{D_b} L\bigl(f_\theta(x), y\bigr)

    by SGD with momentum, with batch norms that keep their statistics: half of each batch may be
    poison. It asks for ``suspects``. Paper: arXiv:2110.11571, which does both in one training;
    here the second half repairs a classifier that is there.

    Cost: ``isolating`` passes each way and one forward pass a suspect. Then an epoch is two passes
    each way an isolated image, and one forward pass a validation image.

    Args:
        isolating: epochs of the copy.
        isolating_lr: learning rate of the copy.
        flood: the loss :math:`\gamma`.
        share: of the suspects that is isolated, in (0, 1); at least one image.
        epochs: of the unlearning.
        lr: learning rate of the unlearning.
        batch: images a step; in the unlearning isolated ones, and as many others.
        momentum: share of the last step that is taken again, in [0, 1].
        weight_decay: see ``fit.SGD``.
    """

    isolating: int = 20
    isolating_lr: float = 0.01
    flood: float = 0.5
    share: float = 0.01
    epochs: int = 20
    lr: float = 5e-4
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for name in ("isolating", "epochs", "batch"):
            checks.at_least(name, getattr(self, name), 1)
        for name in ("isolating_lr", "lr", "flood"):
            checks.in_range(name, getattr(self, name), 0)
        checks.in_range("share", self.share, 1e-6, 1 - 1e-6)
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
            ValueError: no suspects, or a single one.
        """
        suspects = evidence.suspects
        if suspects is None:
            expected = "expected the images that the classifier was trained on, and their labels"
            raise ValueError(f"evidence.suspects=None: {expected}")
        if len(suspects) < 2:
            raise ValueError(f"suspects of {len(suspects)} image: expected at least two")
        begun = Meter()
        clean = accuracy(classifier, evidence.validation, begun)
        came = {"round": 0.0, "clean": clean, "isolated": 0.0, **cost_of(begun)}
        stages = Stages(snapshot)

        def isolate(part: Snapshot | None) -> Tree:
            rows = isolated(
                self,
                classifier,
                suspects,
                seed=seed,
                meter=begun,
                snapshot=part,
                on_step=on_step,
            )
            return {"rows": rows, "meter": begun.as_dict()}

        found = stages("isolate", isolate)
        rows, meter = found["rows"], Meter(**found["meter"])
        model = deepcopy(classifier)
        rest = suspects.without(rows.numpy())
        learning = Supervised(
            model,
            suspects.take(rows.numpy()),
            loss=parted(rest, meter),
            lr=self.lr,
            optimize=SGD(momentum=self.momentum, weight_decay=self.weight_decay),
            meter=meter,
        )

        def judge(epoch: int) -> Judgement:
            # What came in was judged before the suspects were looked at.
            now = clean if epoch < 0 else accuracy(model, evidence.validation, meter)
            return Judgement({"clean": now, "isolated": float(len(rows))})

        def unlearn(part: Snapshot | None) -> Tree:
            log = fit(
                learning,
                epochs=self.epochs,
                batch=self.batch,
                seed=derive(seed, "abl", "unlearn"),
                judge=judge,
                snapshot=part,
                on_step=on_step,
            )
            return {"log": log, "model": model.state_dict(), "meter": meter.as_dict()}

        made = stages("unlearn", unlearn)
        model.load_state_dict(made["model"])
        return Defended(model.eval(), [came, *made["log"][1:]], Meter(**made["meter"]))


def isolated(
    repair: ABL,
    classifier: nn.Module,
    suspects: ImageSet,
    *,
    seed: int,
    meter: Meter,
    snapshot: Snapshot | None = None,
    on_step: Callable[[Progress], None] = silent,
) -> Tensor:
    """Which suspects a fresh copy learns first: rows ``(M,)`` int64, ascending.

    Args:
        repair: the settings.
        classifier: whose layers are copied; not changed, and its weights play no part.
        suspects: training images with the labels that they were trained on.
        seed: names the new weights and the order of images.
        meter: where the cost is counted.
        snapshot: where the state of the copy is kept.
        on_step: told how far the copy is.
    """
    fresh = deepcopy(classifier).requires_grad_(True)
    restart(fresh, seed=derive(seed, "abl", "fresh"))
    learning = Supervised(
        fresh,
        suspects,
        loss=flooded(repair.flood, meter),
        lr=repair.isolating_lr,
        optimize=SGD(momentum=repair.momentum, weight_decay=repair.weight_decay),
        meter=meter,
    )
    fit(
        learning,
        epochs=repair.isolating,
        batch=repair.batch,
        seed=derive(seed, "abl", "isolate"),
        snapshot=snapshot,
        on_step=on_step,
    )
    begun = time.monotonic()
    x, y = suspects.batch(slice(None))
    losses = F.cross_entropy(predict(fresh, x), y, reduction="none")
    meter.forward += len(x)
    count = min(max(1, round(repair.share * len(x))), len(x) - 1)
    rows = losses.argsort(stable=True)[:count].sort().values
    meter.seconds += time.monotonic() - begun
    return rows


def flooded(flood: float, meter: Meter) -> BatchLoss:
    """The mean cross-entropy L of a batch, to go down above ``flood`` and up below it.

    Cost: one pass each way an image.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        meter.forward += len(x)
        meter.backward += len(x)
        mean = F.cross_entropy(model(x), y)
        return torch.sign(mean.detach() - flood) * mean

    return loss


def parted(rest: ImageSet, meter: Meter) -> BatchLoss:
    """The mean cross-entropy of as many images of the rest, less that of the batch.

    Which of the rest follows from torch's global generator, to which ``fit.fit`` gives a state of
    its own in each step. Cost: two passes each way an image of the batch.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        model.eval()  # batch norms keep their statistics
        others, said = rest.batch(torch.randint(len(rest), (len(x),)))
        both = torch.cat([others.to(x.device), x])
        meter.forward += len(both)
        meter.backward += len(both)
        kept, lost = model(both).split(len(x))
        return F.cross_entropy(kept, said.to(x.device)) - F.cross_entropy(lost, y)

    return loss
