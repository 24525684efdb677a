"""One number of the answers to several versions of an image: how sure, how constant they are.

All take logits ``(N, V, K)`` of V versions and give ``(N,)``. Where a network is sure of what it
says entropies and counts have no slope, and an attacker nothing to follow; these declare a
surrogate that has one.
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


class Sureness(nn.Module):
    r"""How sure the further answers are of the class c of the first, in nats.

    .. math::
        -\ln\Bigl(1 - \frac{1}{V - 1} \sum_{v \ge 1} \mathrm{softmax}(z_v)_c\Bigr), \qquad
        c = \arg\max z_0

    The order is that of the mean itself, which comes too close to 1 to tell apart what differs by
    many orders of magnitude: here a doubt of 1e-70 is another one than 1e-30, and there is a slope
    however sure a network is.
    """

    kind: ClassVar[str] = "sureness"

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``(N, V, K)``, those of the image first, to ``(N,)``, at least 0."""
        logs = logits[:, 1:].log_softmax(dim=2)
        others = logs.scatter(2, _said(logits), -math.inf)
        return math.log(others.shape[1]) - others.flatten(1).logsumexp(dim=1)


class Constancy(nn.Module):
    r"""How many of the further answers name the class of the first.

    .. math::
        \frac{1}{V - 1} \sum_{v \ge 1} \bigl[\arg\max z_v = \arg\max z_0\bigr]

    A count has no slope. The surrogate is the mean probability of the class, of logits that span no
    more than 4.
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
    sure: Tensor = logits[:, 1:].softmax(dim=2).gather(2, _said(logits))
    return sure.squeeze(2).mean(dim=1)


def _said(logits: Tensor) -> Tensor:
    """The class of the first answer, once for each further one, ``(N, V - 1, 1)``."""
    return logits[:, :1].argmax(dim=2, keepdim=True).expand(-1, logits.shape[1] - 1, 1)


def _unsure(logits: Tensor) -> Tensor:
    with torch.no_grad():
        span = logits.amax(dim=(1, 2)) - logits.amin(dim=(1, 2))
    return logits / (span / SPAN).clamp(min=1)[:, None, None]
