"""A classifier that is wary of images about which it changes its mind (arXiv:1704.01155)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Disagreement(nn.Module):
    r"""How far the answers to some versions of an image lie from the answer to the image.

    .. math::
        \max_k\; \bigl\lVert \mathrm{softmax}(z_0) - \mathrm{softmax}(z_k) \bigr\rVert_1

    Where both are sure of different classes this has no slope, and an attacker nothing to follow.
    The surrogate is the same at a temperature at which neither is sure.
    """

    kind: ClassVar[str] = "disagreement"

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``(N, 1 + V, K)``, those of the image first, to distances ``(N,)`` in [0, 2]."""
        return self._furthest(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """The same of logits that are divided so that they span no more than 4."""
        span = logits.detach().amax(dim=(1, 2)) - logits.detach().amin(dim=(1, 2))
        return self._furthest(logits / (span / 4).clamp(min=1)[:, None, None])

    @staticmethod
    def _furthest(logits: Tensor) -> Tensor:
        said = logits.softmax(dim=2)
        return (said[:, 1:] - said[:, :1]).abs().sum(dim=2).amax(dim=1)


class Squeezed(nn.Module):
    """A network that is asked about squeezed versions of an image too: a detector.

    Its logits are those of the network for the image as it is. Its score is how far the answers to
    the squeezed versions lie from that, see ``Disagreement``. What a squeezer declares
    (``surrogate``) holds inside of the score.

    Args:
        network: images to logits.
        bit_depth, median: squeezers, images to images.
        non_local_means: a third one.
        distance: logits ``(N, 1 + V, K)`` to scores ``(N,)``.

    Attributes:
        threshold: a scalar; what has a higher score is rejected. 2, so nothing, until it is set.
    """

    kind: ClassVar[str] = "squeezed"
    threshold: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        bit_depth: nn.Module,
        median: nn.Module,
        distance: nn.Module,
        non_local_means: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}
        self.network, self.distance = network, distance
        self.bit_depth, self.median, self.non_local_means = bit_depth, median, non_local_means
        self.register_buffer("threshold", torch.tensor(2.0))

    @property
    def passes(self) -> int:
        """Passes of the network that a score costs an image."""
        return 1 + len(self._squeezers())

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        logits: Tensor = self.network(x)
        return logits

    def score(self, x: Tensor) -> Tensor:
        """How suspicious each image is, ``(N,)`` in [0, 2]."""
        versions = [x, *(squeezer(x) for squeezer in self._squeezers())]
        answers = torch.stack([self.network(version) for version in versions], dim=1)
        score: Tensor = self.distance(answers)
        return score

    def _squeezers(self) -> list[nn.Module]:
        third = [] if self.non_local_means is None else [self.non_local_means]
        return [self.bit_depth, self.median, *third]
