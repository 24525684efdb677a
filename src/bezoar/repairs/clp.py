"""CLP: prune the channels that may amplify far more than the others of their layer."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from bezoar import checks
from bezoar.channels import layers
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import Progress, Row, cost_of, silent
from bezoar.lipschitz import constants, deviations
from bezoar.repairs.protocol import Repair
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class CLP(Repair):
    r"""Channel Lipschitz pruning: silence what may amplify far more than the rest of a layer.

    .. math::
        L_k > \mathrm{mean}(L) + u\, \mathrm{std}(L), \qquad
        L_k = \sigma_{\max}(W_k)\, \frac{|\gamma_k|}{\sqrt{s_k^2 + \epsilon}}

    says which channels k of a layer go, with :math:`W_k` the filter as a matrix
    ``(inputs, height * width)``, and scale, variance and epsilon of the batch norm that reads the
    convolution's output; where none does, the second factor is 1. Filter, scale and shift become
    zero. No image is learnt from: what goes follows from the weights alone. Paper:
    arXiv:2208.03111, section 4.

    Among n channels no deviation exceeds :math:`\sqrt{n - 1}`, so a layer of ten or fewer channels
    is never pruned at u=3.

    Cost: one forward pass, by which convolutions and batch norms are paired, and two a validation
    image, which only say what the pruning cost.

    Args:
        u: deviations above the mean that are borne; between 1 and 5, less prunes more.
    """

    u: float = 3.0

    def __post_init__(self) -> None:
        checks.in_range("u", self.u, 0)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        """Repair; see ``defence.Defence``. Nothing is drawn or kept: ``seed`` is idle.

        Raises:
            ValueError: no convolution, or one whose filters ``channels.layers`` cannot tell.
        """
        begun, meter = time.monotonic(), Meter()
        pruned = deepcopy(classifier).eval()
        found = layers(pruned, evidence.validation.batch(slice(1))[0])
        meter.forward += 1
        log: list[Row] = []

        def note(count: int) -> None:
            clean = accuracy(pruned, evidence.validation, meter)
            meter.seconds = time.monotonic() - begun
            row = {"round": float(len(log)), "clean": clean, "pruned": float(count)}
            log.append({**row, **cost_of(meter)})

        note(0)
        count = 0
        for number, layer in enumerate(found, start=1):
            gone = (deviations(constants(layer)) > self.u).nonzero().squeeze(1)
            layer.silence(gone)
            count += len(gone)
            on_step(Progress(1, 1, number, len(found), 0.0))
        note(count)
        return Defended(pruned, log, meter)
