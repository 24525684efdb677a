"""A classifier that is wary of images whose class outlives larger weights (arXiv:2405.09786)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bezoar import checks

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class IBDPSC(nn.Module):
    r"""A network that is asked again with larger scales and shifts: a detector.

    .. math::
        s(x) = -\ln\Bigl(1 - \frac{1}{m - k_0 + 1} \sum_{k = k_0}^{m}
        \mathrm{softmax}(f_k(x))_c\Bigr), \qquad c = \arg\max f(x)

    with :math:`f_k` the network whose last k batch norms have scale and shift times a factor. Its
    logits are those of the network itself. The :math:`f_k` are no copies: they share all weights
    with f, and a model file holds these once. Cost of a score: a pass, and one for each k.

    Args:
        network: f, images to logits.
        sureness: logits ``(N, V, K)``, those of f first, to scores ``(N,)``.
        norms: names of the last m batch norms within the network, the last first.
        start: k0, from 1 to m.
        factor: on scale and shift, above 0.

    Attributes:
        threshold: a scalar; what has a higher score is rejected. Infinite, so nothing, until it is
            set.

    Raises:
        ValueError: a name that is no batch norm with scale and shift, or twice there, a start that
            is none, or a factor that is not above 0.
    """

    kind: ClassVar[str] = "ibd-psc"
    threshold: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        sureness: nn.Module,
        norms: Sequence[str],
        start: int = 1,
        factor: float = 1.5,
    ) -> None:
        super().__init__()
        inside = dict(network.named_modules())
        for name in norms:
            if not scalable(inside.get(name)) or list(norms).count(name) > 1:
                found = f"norms: {name!r} of {type(network).__name__}"
                raise ValueError(f"{found}: expected a batch norm with scale and shift, once")
        if type(start) is not int or not 1 <= start <= len(norms):
            raise ValueError(f"start={start!r}: expected an integer from 1 to {len(norms)}")
        checks.in_range("factor", factor, 0)
        if not factor:
            raise ValueError(f"factor={factor!r}: expected a number above 0")
        self.fields: dict[str, Any] = {
            "norms": list(norms),
            "start": start,
            "factor": float(factor),
        }
        self.network, self.sureness = network, sureness
        self.register_buffer("threshold", torch.tensor(math.inf))

    @property
    def passes(self) -> int:
        """Passes of the network that a score costs an image."""
        return 1 + len(self._counts())

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        logits: Tensor = self.network(x)
        return logits

    def score(self, x: Tensor) -> Tensor:
        """How sure the scaled networks are of what the network says, ``(N,)``, at least 0."""
        answers = [self.network(x), *(self.scaled(x, k) for k in self._counts())]
        score: Tensor = self.sureness(torch.stack(answers, dim=1))
        return score

    def scaled(self, x: Tensor, k: int) -> Tensor:
        """What the network with its last ``k`` batch norms scaled says, logits ``(N, K)``."""
        factor, larger = self.fields["factor"], {}
        for name in self.fields["norms"][:k]:
            norm = self.network.get_submodule(name)
            larger[f"{name}.weight"] = factor * norm.weight
            larger[f"{name}.bias"] = factor * norm.bias
        logits: Tensor = functional_call(self.network, larger, (x,))
        return logits

    def _counts(self) -> range:
        return range(self.fields["start"], len(self.fields["norms"]) + 1)


def scalable(module: nn.Module | None) -> bool:
    """Whether a module is a batch norm that has a scale and a shift."""
    return isinstance(module, NORMS) and module.affine
