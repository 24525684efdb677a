"""Several classifiers as one: what an attacker asks who does not know the one he is after."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    r"""The normalised mean of its members' log-probabilities.

    .. math::
        \log p(x) = \log\mathrm{softmax}\Bigl(\frac1M \sum_{m=1}^M
                    \log\mathrm{softmax}\,f_m(x)\Bigr)

    What fools several networks more often fools one more, too (arXiv:1611.02770, where it is the
    probabilities that are averaged). A constant for each image apart, this is the mean of the
    logits, the fusion that arXiv:1710.06081, section 3.2, found to transfer best. Cost: a pass of
    each member.

    Args:
        members: classifiers of the same classes, one at least; kept as they are.

    Raises:
        ValueError: no member.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members=[]: expected at least one classifier")
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to log-probabilities ``(N, K)``."""
        each = torch.stack([member(x).log_softmax(dim=1) for member in self.members])
        return each.mean(dim=0).log_softmax(dim=1)
