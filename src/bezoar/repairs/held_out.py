"""Judging on images that were left out, fold by fold, where there are too few to set some aside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.classifier import device_of, frozen
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.data.splits import stratified
from bezoar.defence import Evidence
from bezoar.repairs.sources import Stamp
from bezoar.seeds import derive

PASS = 256  # images in a pass


@dataclass(frozen=True)
class Outlook:
    """What images that were left out say of a network, with and without the trigger.

    Attributes:
        clean: share of the clean ones that are named rightly.
        clean_loss: their mean cross-entropy.
        trigger_loss: that of the triggered ones towards their true classes.
        clean_error: standard error of ``clean_loss``, by how the images differ.
        both_error: that of the sum of both losses.
    """

    clean: float
    clean_loss: float
    trigger_loss: float
    clean_error: float
    both_error: float


def outlook(model: nn.Module, stamp: Stamp, held: ImageSet, meter: Meter) -> Outlook:
    """Show a network some images, clean and triggered; two forward passes each."""
    right, losses = 0, []
    with torch.no_grad(), frozen(model):
        for rows in torch.arange(len(held)).split(PASS):
            x, y = (part.to(device_of(model)) for part in held.batch(rows))
            both = []
            for images in (x, stamp(x)):
                logits = model(images)
                both.append(F.cross_entropy(logits, y, reduction="none"))
                right += 0 if len(both) > 1 else int((logits.argmax(dim=1) == y).sum())
            losses.append(torch.stack(both).double().cpu())
    meter.forward += 2 * len(held)
    clean, triggered = torch.cat(losses, dim=1)
    return Outlook(
        right / len(held),
        clean.mean().item(),
        triggered.mean().item(),
        _error(clean),
        _error(clean + triggered),
    )


def _error(losses: Tensor) -> float:
    """Standard error of the mean of numbers ``(N,)``; zero of a single one."""
    return losses.std().item() / len(losses) ** 0.5 if len(losses) > 1 else 0.0


def joined(evidence: Evidence) -> ImageSet:
    """All images of a defender in one set, numbered as in their source where it is the same."""
    parts = (evidence.train, evidence.validation)
    index = np.concatenate([part.index for part in parts])
    order = np.argsort(index, kind="stable")
    if (np.diff(index[order]) <= 0).any():  # two sources: number them anew
        index = order = np.arange(len(index))
    at = torch.from_numpy(order)
    return replace(
        evidence.train,
        pixels=torch.cat([part.pixels for part in parts])[at],
        labels=torch.cat([part.labels for part in parts])[at],
        index=index[order],
        groups=None,
    )


def cut(evidence: Evidence, folds: int, seed: int) -> list[tuple[ImageSet, ImageSet]]:
    """What is learnt from and what is left out, one pair a fold, all classes alike.

    With one fold that is what the evidence says: train and validation.

    Raises:
        ValueError: more folds than images.
    """
    if folds == 1:
        return [(evidence.train, evidence.validation)]
    whole = joined(evidence)
    if folds > len(whole):
        raise ValueError(f"folds={folds}: expected at most the {len(whole)} images")
    parts = stratified(whole.labels.numpy(), [1 / folds] * folds, derive(seed, "folds"))
    return [(whole.without(part), whole.take(part)) for part in parts]


def averaged(curves: Sequence[Sequence[Outlook]]) -> list[Outlook]:
    """The mean over the folds, as far as the shortest curve goes; its errors shrink with them."""
    found = []
    for each in zip(*curves, strict=False):
        mean = {name: float(np.mean([vars(one)[name] for one in each])) for name in vars(each[0])}
        for name in ("clean_error", "both_error"):
            mean[name] = float(np.linalg.norm([vars(one)[name] for one in each])) / len(each)
        found.append(Outlook(**mean))
    return found
