"""A classifier that looks at its images through Gaussian noise (arXiv:1902.02918)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.seeds import hashed_normal


class Smoothed(nn.Module):
    r"""A network on noisy images; one draw of the noise a pass.

    .. math::
        g(x) = \arg\max_c\; P\bigl(f(x + \sigma n) = c\bigr), \qquad n \sim N(0, I)

    is the smoothed classifier. A pass gives :math:`f(x + \sigma n)` for one draw, and the noise is
    declared (``reseed``), so whoever attacks or judges averages over as many draws as he likes;
    the averages are of probabilities, not of votes. What holds for :math:`g` is found by
    ``certificates``. The noisy image is not cut to [0, 1]: f is defined on all of space there.

    Args:
        sigma: deviation of the noise on a pixel, at least 0, in pixel units of [0, 1].
        network: images to logits.

    Raises:
        ValueError: a sigma below 0 or not finite.
    """

    kind: ClassVar[str] = "smoothed"

    def __init__(self, *, sigma: float, network: nn.Module) -> None:
        super().__init__()
        checks.in_range("sigma", sigma, 0)
        self.fields: dict[str, Any] = {"sigma": float(sigma)}
        self.sigma, self.network = float(sigma), network
        self._keys: Tensor | None = None

    def reseed(self, keys: Tensor | None) -> None:
        """Let the noise that follows depend on ``keys``, ``(N,)`` int64, alone."""
        self._keys = keys

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to the logits ``(N, K)`` of one draw."""
        if self._keys is None:
            noise = torch.randn_like(x)
        else:
            noise = hashed_normal(self._keys, torch.zeros_like(self._keys), x.shape[1:]).to(x)
        logits: Tensor = self.network(x + self.sigma * noise)
        return logits
