"""The scan of CLP: a channel that may amplify its input far more than the others of its layer."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bezoar import checks
from bezoar.channels import layers
from bezoar.classifier import require
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.lipschitz import constants, deviations
from bezoar.scans.protocol import Finding, ModelScan


@dataclass(frozen=True, kw_only=True)
class ChannelLipschitz(ModelScan):
    r"""Look for a convolution's channel whose Lipschitz constant lies far above the others.

    .. math::
        \max_l \max_k \frac{L_k - \mathrm{mean}(L)}{\mathrm{std}(L)}, \qquad
        L_k = \sigma_{\max}(W_k)\, \frac{|\gamma_k|}{\sqrt{s_k^2 + \epsilon}}

    over the layers l and their channels k, with :math:`W_k` the filter as a matrix
    ``(inputs, height * width)``, and scale, variance and epsilon of the batch norm that reads the
    convolution's output; where none does, the second factor is 1. Paper: arXiv:2208.03111,
    section 4, which prunes the channels above u = 3. So the score says how large u may be for CLP
    to prune anything. It tells neither the class nor the trigger.

    There is no p-value: the constants of a trained layer follow no known distribution. Among n
    channels no deviation exceeds :math:`\sqrt{n - 1}`, and in a wide layer some exceed 3
    without a backdoor: set the threshold on clean networks of the same architecture.

    Cost: one forward pass, by which convolutions and batch norms are paired; no data, no gradient.

    Args:
        threshold: of the score; the u of CLP.
    """

    threshold: float = 3.0

    def __post_init__(self) -> None:
        checks.in_range("threshold", self.threshold, 0)

    @property
    def blind(self) -> bool:
        return True

    def __call__(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        """Look for a backdoor; see ``protocol.ModelScan``. Nothing is drawn, so ``seed`` is idle.

        Raises:
            ValueError: no convolution, or one whose filters ``channels.layers`` cannot tell.
        """
        begun, meter = time.monotonic(), Meter()
        probe = torch.full((1, *images.shape), 0.5)  # what it holds does not matter
        require(classifier, probe, len(images.classes))
        found = layers(classifier, probe)
        meter.forward += 2 * len(probe)
        score = 0.0
        for number, layer in enumerate(found, start=1):
            score = max(score, float(deviations(constants(layer)).max()))
            on_step(Progress(1, 1, number, len(found), 0.0))
        meter.seconds = time.monotonic() - begun
        return Finding(score=score, threshold=self.threshold, cost=meter)
