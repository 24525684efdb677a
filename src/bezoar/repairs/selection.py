"""Which adversarial twins of a batch are learnt from: values, one call each."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bezoar import checks


class Selection(Protocol):
    """Chooses among twins by their loss ``(N,)`` and whether they fool the model ``(N,)`` bool."""

    def __call__(self, loss: Tensor, fooled: Tensor) -> Tensor:
        """The chosen ones, ``(N,)`` bool."""


@dataclass(frozen=True)
class All:
    """Every twin."""

    def __call__(self, loss: Tensor, fooled: Tensor) -> Tensor:
        return torch.ones_like(fooled)


@dataclass(frozen=True)
class TopLoss:
    """The share of twins with the highest loss, at least one."""

    share: float = 0.5

    def __post_init__(self) -> None:
        checks.in_range("share", self.share, 0, 1)

    def __call__(self, loss: Tensor, fooled: Tensor) -> Tensor:
        chosen = torch.zeros_like(fooled)
        chosen[loss.topk(max(1, round(self.share * len(loss)))).indices] = True
        return chosen


@dataclass(frozen=True)
class Misclassified:
    """Only the twins that fool the model; in a batch where none does, none."""

    def __call__(self, loss: Tensor, fooled: Tensor) -> Tensor:
        return fooled
