"""A classifier that is wary of images that keep their class when they are brightened."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bezoar.models.fields import whole


class ScaleUp(nn.Module):
    r"""A network that is asked about multiples of an image too: a detector (arXiv:2302.03251).

    .. math::
        s(x) = \frac{S(x) - \mu_c}{\sigma_c}, \qquad
        S(x) = \frac{1}{|F|} \sum_{n \in F} \bigl[\arg\max f(\mathrm{clip}(n x)) = c\bigr], \quad
        c = \arg\max f(x)

    with mean and deviation those of S over clean images that f takes for class c. Its logits are
    those of the network for the image as it is. Cost of a score: a pass, and one for each factor.

    Args:
        network: f, images to logits.
        constancy: logits ``(N, V, K)``, those of the image first, to S ``(N,)``.
        classes: number of logits.
        factors: F, integers from 1.

    Attributes:
        mean, std: of S by class, ``(classes,)``; 0 and 1, so that s is S, until they are set.
        threshold: a scalar; what has a higher score is rejected. 1, so nothing, until it is set.

    Raises:
        ValueError: no factor, or sizes below 1 or absurdly large.
    """

    kind: ClassVar[str] = "scale-up"
    mean: Tensor
    std: Tensor
    threshold: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        constancy: nn.Module,
        classes: int = 10,
        factors: Sequence[int] = (3, 5, 7, 9, 11),
    ) -> None:
        super().__init__()
        if not factors:
            raise ValueError(f"factors={factors!r}: expected at least one")
        self.fields: dict[str, Any] = {
            "classes": whole("classes", classes),
            "factors": [whole("factors", factor) for factor in factors],
        }
        self.network, self.constancy = network, constancy
        self.register_buffer("mean", torch.zeros(classes))
        self.register_buffer("std", torch.ones(classes))
        self.register_buffer("threshold", torch.tensor(1.0))

    @property
    def passes(self) -> int:
        """Passes of the network that a score costs an image."""
        return 1 + len(self.fields["factors"])

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        logits: Tensor = self.network(x)
        return logits

    def score(self, x: Tensor) -> Tensor:
        """How much better than a clean image of its class each one keeps it, ``(N,)``."""
        versions = [x, *((factor * x).clamp(0, 1) for factor in self.fields["factors"])]
        answers = torch.stack([self.network(version) for version in versions], dim=1)
        said = answers[:, 0].argmax(dim=1)
        score: Tensor = (self.constancy(answers) - self.mean[said]) / self.std[said]
        return score
