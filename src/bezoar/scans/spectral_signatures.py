"""Spectral signatures: poison lies far out along the direction in which a class varies most."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.scans.protocol import DataScan, Finding
from bezoar.scans.suspects import COMPARED, Verdict, Watch, by_class, compared, finding, looked_at

MARGIN = 1.5  # times the assumed rate is removed, so that little of the poison is missed


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(DataScan):
    r"""Project the features of each class on their top right singular vector; remove the far ones.

    .. math::
        \tau_i = \bigl\langle h_i - \bar h_k,\; v_k \bigr\rangle^2, \qquad
        v_k = \arg\max_{\lVert v \rVert = 1} \sum_{i \in k} \langle h_i - \bar h_k, v \rangle^2

    The images with the highest tau are flagged, a share :math:`1.5 e` of *every* class. Paper:
    arXiv:1811.00636, algorithm 1.

    The paper removes; it does not ask whether there is poison. Neither do the flags: they are the
    same whether the scan accuses or not, and in healthy data a share :math:`1.5 e` of false ones.
    What ``score`` and ``threshold`` say is ours: the anomaly index among the classes of the share
    of the variance that lies along v. The null is that this share is spread alike in all classes;
    poison in one class makes it stand out, poison in all of them does not. It often is silent where
    the flags are right, which is why they do not hang on it.

    The score of an image is tau, in squared units of the features. It can be compared between
    classes as far as these vary alike. Trusted images are not looked at.

    Cost: one forward pass an image, and one singular value decomposition for each class.

    Args:
        rate: the share e of a class that is assumed to be poison at most, in [0, 2/3].
        threshold: anomaly index above which a class is accused.
        least: a class of fewer images is left out, at least 2.
    """

    rate: float = 0.1
    threshold: float = 7.39
    least: int = 10

    def __post_init__(self) -> None:
        checks.in_range("rate", self.rate, 0, 2 / 3)
        checks.in_range("threshold", self.threshold, 0)
        checks.at_least("least", self.least, 2)

    def __call__(
        self,
        classifier: nn.Module,
        suspects: ImageSet,
        trusted: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        members = by_class(suspects, self.least, COMPARED)
        watch = Watch(parts=1 + len(members), on_step=on_step)
        h = looked_at(classifier, suspects, watch)
        verdicts = {}
        for k, at in members.items():
            rows, share = signature(h[at])
            marked = highest(rows, MARGIN * self.rate)
            verdicts[k] = Verdict(at=at, score=share, rows=rows, marked=marked)
            watch.step()
        found = finding(compared(verdicts), suspects, threshold=self.threshold, meter=watch.meter)
        return replace(found, flagged=removed(verdicts, len(suspects)))


def signature(h: Tensor) -> tuple[Tensor, float]:
    """Squared projections ``(n,)`` on the top right singular vector, and its share of the variance.

    Args:
        h: features of one class, ``(n, D)``.
    """
    centred = h - h.mean(dim=0)
    left, scale, _ = torch.linalg.svd(centred, full_matrices=False)
    along, whole = (left[:, 0] * scale[0]).square(), centred.square().sum().item()
    return along, along.sum().item() / max(whole, 1e-12)


def removed(verdicts: Mapping[int, Verdict], count: int) -> Tensor:
    """What is marked in all classes, accused or not, ``(count,)`` bool."""
    chosen = torch.zeros(count, dtype=torch.bool)
    for verdict in verdicts.values():
        chosen[verdict.at[verdict.marked]] = True
    return chosen


def highest(rows: Tensor, share: float) -> Tensor:
    """The share of the rows ``(n,)`` with the highest scores, ``(n,)`` bool.

    >>> highest(torch.tensor([3.0, 1.0, 4.0, 2.0]), 0.5)
    tensor([ True, False,  True, False])
    """
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    order = rows.argsort(descending=True, stable=True)
    chosen[order[: int(share * len(rows))]] = True
    return chosen
