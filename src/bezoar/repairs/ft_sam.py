"""FT-SAM: fine-tune to where the loss stays low around the weights, not only at them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from bezoar import checks
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import (
    BatchLoss,
    Judgement,
    Progress,
    fit,
    silent,
)
from bezoar.repairs import descent
from bezoar.repairs.protocol import Repair
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class FTSAM(Repair):
    r"""Train on clean images by the gradient at the worst weights near the present ones.

    .. math::
        \min_\theta\; \mathrm{E}\, L\bigl(f_{\theta + e}(x), y\bigr), \qquad
        e = \rho\, \frac{\theta^2 \odot g}{\lVert\, |\theta| \odot g\,\rVert_2 + 10^{-12}}, \qquad
        g = \nabla_\theta L\bigl(f_\theta(x), y\bigr)

    over all weights together; e is as large as rho in the norm that measures each weight by its own
    size. Channels that answer to a trigger have large weights, and these move most. Paper:
    arXiv:2304.11823, section 4; the step is that of arXiv:2102.11600. Batch norms learn their
    statistics from the first of the two passes only, and both have the same dropout, so that rho=0
    is ``FineTune``, step for step. The last epoch is kept.

    Cost: an epoch is two passes each way an image, and one forward pass a validation image.

    Args:
        rho: size of e; 2 in the paper on CIFAR-10, 8 on GTSRB.
        smoothing: share of a label that is spread over all classes, in [0, 1]; 0.1 in the paper on
            CIFAR-10, 0 on GTSRB.
        epochs, batch, lr, schedule, momentum, weight_decay: as in ``FineTune``.
    """

    rho: float = 2.0
    smoothing: float = 0.1
    epochs: int = 100
    batch: int = 256
    lr: float = 0.01
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        checks.in_range("rho", self.rho, 0)
        checks.in_range("smoothing", self.smoothing, 0, 1)
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
        meter = Meter()
        learning = descent.learner(
            self,
            deepcopy(classifier),
            evidence.train,
            nearby(self.rho, self.smoothing, meter),
            meter,
        )
        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=lambda epoch: Judgement(
                {"clean": accuracy(learning.model, evidence.validation, meter)}
            ),
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(learning.model, log, meter)


def nearby(rho: float, smoothing: float, meter: Meter) -> BatchLoss:
    """The mean cross-entropy at the worst weights near those of the model."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        meter.forward += 2 * len(x)
        meter.backward += 2 * len(x)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # Layers draw the same in both passes: rho = 0 would else not be one gradient.
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            here = F.cross_entropy(model(x), y, label_smoothing=smoothing)
        slopes = torch.autograd.grad(here, list(trained.values()), materialize_grads=True)
        changes = steepest(list(trained.values()), slopes, rho)
        # A clone keeps the layout in memory, by which sums and dropout go; a sum may not.
        pairs = zip(trained.items(), changes, strict=True)
        values = {name: weight.clone().add_(change) for (name, weight), change in pairs}
        # Statistics of batch norms are moved by a pass: the second moves copies of them.
        values |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        there: Tensor = functional_call(model, values, (x,))
        return F.cross_entropy(there, y, label_smoothing=smoothing)

    return loss


def steepest(weights: Sequence[Tensor], slopes: Sequence[Tensor], rho: float) -> list[Tensor]:
    """The change e of each weight, of which ``e / |w|`` has the norm ``rho`` over all together."""
    pairs = [(w.detach(), g) for w, g in zip(weights, slopes, strict=True)]
    norm = torch.stack([(w * g).norm() for w, g in pairs]).norm()
    return [rho * w.square() * g / (norm + 1e-12) for w, g in pairs]
