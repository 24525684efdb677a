"""A classifier that is wary of images whose class outlives a mixture (arXiv:1902.06531)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.models.fields import Shape, checked, whole


class STRIP(nn.Module):
    r"""A network that is asked about an image under clean images too: a detector.

    .. math::
        s(x) = \ln K - \frac1N \sum_{j=1}^{N} H\bigl(\mathrm{softmax} f(\mathrm{clip}(a x + b\,
        o_j))\bigr)

    with clean images :math:`o_j` that stay the same for every image and in every call. Its logits
    are those of the network for the image as it is. Cost of a score: N passes.

    Args:
        network: f, images to logits.
        certainty: logits ``(N, V, K)`` to scores ``(N,)``.
        shape: channels, height and width of an image.
        count: N, how many clean images.
        own: a, weight of the image, at least 0.
        other: b, weight of the clean image, at least 0.

    Attributes:
        overlays: the clean images, ``(count, C, H, W)`` in [0, 1]; black until they are set.
        threshold: a scalar; what has a higher score is rejected. 100, so nothing, until it is set.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a weight below 0.
    """

    kind: ClassVar[str] = "strip"
    overlays: Tensor
    threshold: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        certainty: nn.Module,
        shape: Shape = (1, 28, 28),
        count: int = 64,
        own: float = 1.0,
        other: float = 0.5,
    ) -> None:
        super().__init__()
        sides = checked(shape, 2, None, None)["shape"]
        checks.in_range("own", own, 0)
        checks.in_range("other", other, 0)
        self.fields: dict[str, Any] = {
            "shape": sides,
            "count": whole("count", count),
            "own": float(own),
            "other": float(other),
        }
        self.network, self.certainty = network, certainty
        self.register_buffer("overlays", torch.zeros(count, *sides))
        self.register_buffer("threshold", torch.tensor(100.0))

    @property
    def passes(self) -> int:
        """Passes of the network that a score costs an image."""
        return len(self.overlays)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        logits: Tensor = self.network(x)
        return logits

    def score(self, x: Tensor) -> Tensor:
        """How sure the network stays under the overlays, ``(N,)`` in nats, 0 to ln K."""
        own, other = self.fields["own"], self.fields["other"]
        # One after the other: the noise of a network belongs to the images of a batch.
        mixed = [(own * x + other * overlay).clamp(0, 1) for overlay in self.overlays]
        answers = torch.stack([self.network(one) for one in mixed], dim=1)
        score: Tensor = self.certainty(answers)
        return score
