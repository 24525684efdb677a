"""A random classifier that rejects images on which its draws disagree."""

import math
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bezoar.classifier import reseeded
from bezoar.models.fields import whole


class Uncertain(nn.Module):
    r"""A random classifier with the mutual information of its class and its noise as a score.

    .. math::
        \mathrm{score}(x) = H\Bigl(\frac1T \sum_t p_t(x)\Bigr) - \frac1T \sum_t H\bigl(p_t(x)\bigr)

    with :math:`p_t` the probabilities of draw t and H the entropy (arXiv:1112.5745): 0 where all
    draws give the same probabilities, ln K where each is sure of another of K classes. The noise
    of these draws is the same in every call and for every image, so the score has an exact
    gradient.

    The logits are those of the classifier, and stay random; its noise follows from the keys of
    this module.

    Args:
        network: images to logits; declares its noise by ``reseed``.
        draws: T, at least 2.

    Raises:
        ValueError: fewer draws, or absurdly many.
    """

    kind: ClassVar[str] = "uncertain"
    threshold: Tensor

    def __init__(self, *, network: nn.Module, draws: int = 16) -> None:
        super().__init__()
        if whole("draws", draws) < 2:
            raise ValueError(f"draws={draws}: expected at least 2, which can disagree")
        self.fields: dict[str, Any] = {"draws": draws}
        self.network = network
        self.register_buffer("threshold", torch.zeros(()))
        self._keys: Tensor | None = None

    def reseed(self, keys: Tensor | None) -> None:
        """Let the noise of the logits that follow depend on ``keys``, ``(N,)`` int64, alone."""
        self._keys = keys

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        # The score takes away the keys that the network was given, so it gets them here.
        held = nullcontext() if self._keys is None else reseeded(self.network, self._keys)
        with held:
            logits: Tensor = self.network(x)
        return logits

    def score(self, x: Tensor) -> Tensor:
        """How suspicious images look: ``(N,)`` in nats, from 0 to ln K, but for rounding."""
        logs = []
        for draw in range(self.fields["draws"]):
            with reseeded(self.network, torch.full((len(x),), draw, device=x.device)):
                logs.append(self.network(x).log_softmax(dim=1))
        each = torch.stack(logs)
        mean = each.logsumexp(dim=0) - math.log(len(each))
        return _entropy(mean) - _entropy(each).mean(dim=0)


def _entropy(logs: Tensor) -> Tensor:
    """Of log-probabilities ``(..., K)``, in nats, ``(...)``."""
    return -(logs.exp() * logs).sum(dim=-1)
