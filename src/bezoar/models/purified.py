"""A classifier that looks at its images through a purifier."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Purified(nn.Module):
    """A network behind a purifier: what the purifier makes of an image is classified.

    It is a classifier itself, so an attack on it goes through both, and what either declares
    (``surrogate``, ``reseed``) holds inside of it.

    Args:
        purifier: images ``(N, C, H, W)`` in [0, 1] to images of the same shape.
        network: images to logits.
    """

    kind: ClassVar[str] = "purified"

    def __init__(self, *, purifier: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}
        self.purifier, self.network = purifier, network

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        logits: Tensor = self.network(self.purifier(x))
        return logits
