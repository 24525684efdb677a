"""FT: go on training on clean images, and hope that the backdoor is forgotten."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import (
    Judgement,
    Progress,
    cross_entropy,
    fit,
    silent,
)
from bezoar.repairs import descent
from bezoar.repairs.protocol import Repair
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class FineTune(Repair):
    r"""Train all weights on the defender's clean images.

    .. math::
        \min_\theta\; \mathrm{E}\, L\bigl(f_\theta(x), y\bigr)

    by SGD with momentum; batch norms learn their statistics anew. The last epoch is kept: nothing
    that a defender can see tells when the backdoor is gone. Show it beside every newer method; a
    large re-evaluation (arXiv:2411.11200) found few that are much better. The settings are those of
    the benchmark arXiv:2206.12654.

    Cost: an epoch is one pass each way an image, and one forward pass a validation image.

    Args:
        epochs: budget.
        batch: images a step.
        lr: learning rate.
        schedule: of the learning rate, a name in ``fit.SCHEDULES``.
        momentum: share of the last step that is taken again, in [0, 1].
        weight_decay: see ``fit.SGD``.
    """

    epochs: int = 100
    batch: int = 256
    lr: float = 0.01
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
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
            self, deepcopy(classifier), evidence.train, cross_entropy(meter), meter
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
