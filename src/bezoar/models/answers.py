"""One number of the answers to several versions of an image: how sure, how constant they are.

All take logits ``(N, V, K)`` of V versions and give ``(N,)``. Where a network is sure of what it
says they have no slope, and an attacker nothing to follow; each declares a surrogate that has one.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

SPAN = 4.0  # of the logits of the surrogates: a class is likely, and none is certain


class Certainty(nn.Module):
    r"""How far the answers are from knowing nothing, in nats: ln K less their mean entropy.

    .. math::
        \ln K - \frac1V \sum_v H\bigl(\mathrm{softmax}(z_v)\bigr)

    The surrogate is the same of logits that span no more than 4.
    """

    kind: ClassVar[str] = "certainty"

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``(N, V, K)`` to ``(N,)``, from 0 to ln K but for rounding."""
        return _certainty(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """The same of answers that are not sure."""
        return _certainty(_unsure(logits))


class Confidence(nn.Module):
    r"""How sure the further answers are of the class c of the first.

    .. math::
        \frac{1}{V - 1} \sum_{v \ge 1} \mathrm{softmax}(z_v)_c, \qquad c = \arg\max z_0

    The surrogate is the same of logits that span no more than 4.
    """

    kind: ClassVar[str] = "confidence"

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``(N, V, K)``, those of the image first, to ``(N,)`` in [0, 1]."""
        return _confidence(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """The same of answers that are not sure."""
        return _confidence(_unsure(logits))


class Constancy(nn.Module):
    r"""How many of the further answers name the class of the first.

    .. math::
        \frac{1}{V - 1} \sum_{v \ge 1} \bigl[\arg\max z_v = \arg\max z_0\bigr]

    A count has no slope. The surrogate is that of ``Confidence``.
    """

    kind: ClassVar[str] = "constancy"

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``(N, V, K)``, those of the image first, to shares ``(N,)`` in [0, 1]."""
        said = logits.argmax(dim=2)
        return (said[:, 1:] == said[:, :1]).to(logits).mean(dim=1)

    def surrogate(self, logits: Tensor) -> Tensor:
        """How sure answers that are not sure would be of the class."""
        return _confidence(_unsure(logits))


def _certainty(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(dim=2)
    return math.log(logits.shape[2]) + (logs.exp() * logs).sum(dim=2).mean(dim=1)


def _confidence(logits: Tensor) -> Tensor:
    said = logits[:, :1].argmax(dim=2, keepdim=True).expand(-1, logits.shape[1] - 1, 1)
    sure: Tensor = logits[:, 1:].softmax(dim=2).gather(2, said)
    return sure.squeeze(2).mean(dim=1)


def _unsure(logits: Tensor) -> Tensor:
    with torch.no_grad():
        span = logits.amax(dim=(1, 2)) - logits.amin(dim=(1, 2))
    return logits / (span / SPAN).clamp(min=1)[:, None, None]
