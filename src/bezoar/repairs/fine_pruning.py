"""Fine-pruning: remove the features that clean images do not use, then fine-tune."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.features import features, head
from bezoar.fit import (
    Judgement,
    Progress,
    Row,
    Supervised,
    cost_of,
    cross_entropy,
    fit,
    silent,
)
from bezoar.repairs import descent
from bezoar.repairs.protocol import Repair
from bezoar.repairs.rounds import joined
from bezoar.repairs.tolerance import lowest
from bezoar.snapshots import Snapshot, Tree


@dataclass(frozen=True, kw_only=True)
class FinePruning(Repair):
    r"""Zero the units before the last layer that are least active on clean images, then fine-tune.

    .. math::
        a_k = \mathrm{E}\, h_k(x), \qquad
        W_{\cdot k} := 0 \text{ for the } n \text{ units with the lowest } a_k

    with h what comes into the last linear layer W. Units go in the order of their mean activation
    on the training images, a share of all of them at a time, as long as the accuracy on validation
    is no lower than ``tolerance.lowest`` allows. Then all weights learn on as in ``FineTune``, and
    what was zeroed is zero after every step. Paper: arXiv:1805.12185, section 4.

    Cost: one forward pass an image, of train and of validation, since a unit that only the last
    layer reads can be removed from what is kept of them; 5 more to find the last layer. An epoch is
    one pass each way an image, and one forward pass a validation image.

    Args:
        share: of all units that goes at a time, at least one unit.
        tolerance: drop of the accuracy that is borne by the pruning.
        epochs, batch, lr, schedule, momentum, weight_decay: as in ``FineTune``.
    """

    share: float = 0.01
    tolerance: float = 0.1
    epochs: int = 100
    batch: int = 256
    lr: float = 0.01
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        checks.in_range("share", self.share, 0, 1)
        checks.in_range("tolerance", self.tolerance, 0, 1)
        descent.require(self)

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
            ValueError: the logits do not come from a linear layer.
        """
        begun, meter, model = time.monotonic(), Meter(), deepcopy(classifier)
        layer = head(model, evidence.train.batch(slice(1))[0])
        meter.forward += 1
        activity, _ = seen(model, evidence.train, meter)
        h, right = seen(model, evidence.validation, meter)
        order = activity.mean(dim=0).argsort(stable=True)
        before = _accuracy(layer, h, right)
        floor = lowest(before, len(right), self.tolerance)
        count, clean = idle(layer, h, right, order, max(1, round(self.share * len(order))), floor)
        held = Held(layer, order[:count])
        held.zero()
        meter.seconds += time.monotonic() - begun
        rows: list[Row] = [
            {"clean": share, "pruned": float(gone), **cost_of(meter)}
            for gone, share in ((0, before), (count, clean))
        ]
        learning = Tuning(
            descent.learner(self, model, evidence.train, cross_entropy(meter), meter),
            held,
        )

        def judge(epoch: int) -> Judgement:
            if epoch < 0:  # that is known from the features
                return Judgement({})
            clean = accuracy(model, evidence.validation, meter)
            return Judgement({"clean": clean, "pruned": float(count)})

        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=judge,
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(model, joined(rows, log), meter)


def seen(model: nn.Module, images: ImageSet, meter: Meter) -> tuple[Tensor, Tensor]:
    """Features before the last layer ``(N, D)`` and true classes ``(N,)``, on the CPU."""
    x, y = images.batch(slice(None))
    found, _ = features(model, x)
    meter.forward += len(x) + len(x[:2])
    return found, y


def idle(
    layer: nn.Linear, h: Tensor, y: Tensor, order: Tensor, step: int, floor: float
) -> tuple[int, float]:
    """How many units may go, and the accuracy without them; no pass through the network.

    Args:
        layer: the last one.
        h: what comes into it, ``(N, D)``.
        y: true classes, ``(N,)``.
        order: all units, the first to go first, ``(D,)``.
        step: units that go at a time; one always stays.
        floor: the accuracy that has to stay.
    """
    count, clean = 0, _accuracy(layer, h, y)
    left = h.clone()
    for gone in range(step, len(order), step):
        left[:, order[gone - step : gone]] = 0
        without = _accuracy(layer, left, y)
        if without < floor:
            break
        count, clean = gone, without
    return count, clean


def _accuracy(layer: nn.Linear, h: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        said = layer(h.to(layer.weight.device)).argmax(dim=1).cpu()
    return float((said == y).double().mean())


@dataclass(frozen=True, eq=False)
class Held:
    """Units of a layer whose weights are zero, and made so again after each step."""

    layer: nn.Linear
    units: Tensor

    def zero(self) -> None:
        with torch.no_grad():
            self.layer.weight[:, self.units.to(self.layer.weight.device)] = 0


class Tuning:
    """Plain training in which some units of the last layer stay out."""

    def __init__(self, learning: Supervised, held: Held) -> None:
        self.model, self.meter = learning.model, learning.meter
        self._learning, self._held = learning, held

    def begin(self, epoch: int) -> int:
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        loss = self._learning.step(rows, position)
        self._held.zero()  # momentum and weight decay move what has no part in the loss
        return loss

    def state_dict(self) -> Tree:
        return self._learning.state_dict()

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state)
