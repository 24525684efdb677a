"""What a defence is, may see and hands back: the contract of repairs and guards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import predict
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, Row, silent
from bezoar.results import Rate
from bezoar.seeds import derive, subkeys
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a defence may see. There is no test split in it, so nothing can be chosen on one.

    Attributes:
        train: clean images to learn from.
        validation: clean images to stop and choose on.
        trigger: the true trigger of a backdoor, images to stamped images. Only a study has it; a
            repair that asks for it is an oracle.
        suspects: the images that the classifier was trained on, with the labels that it saw, for a
            defence that looks for poison among them.
    """

    train: ImageSet
    validation: ImageSet
    trigger: Callable[[Tensor], Tensor] | None = None
    suspects: ImageSet | None = None


HELD = 0.1  # share of a defender's few images that he does not learn from (arXiv:2405.03918)


def few(images: ImageSet, per_class: int, *, seed: int, held: float = HELD) -> Evidence:
    """The evidence of a defender who has a few images of each class.

    Of each class ``per_class`` images; the share ``held`` of them, rounded down, is for validation,
    and where that is none one more is drawn for it. Which ones follows from the seed and their
    own positions, so that more of them keep what fewer had.

    Args:
        images: clean ones, with true labels.
        per_class: at least 1.
        seed: names the draw.
        held: share for validation, in [0, 1).

    Raises:
        ValueError: a class with too few images.
    """
    checks.at_least("per_class", per_class, 1)
    checks.in_range("held", held, 0, 1)
    kept = int(per_class * held)
    learnt, wanted = (per_class - kept, per_class) if kept else (per_class, per_class + 1)
    index = torch.from_numpy(images.index)
    luck = subkeys(torch.full((len(images),), derive(seed, "few")), index)
    first, second = [], []
    for number, name in enumerate(images.classes):
        own = (images.labels == number).nonzero().squeeze(1)
        if len(own) < wanted:
            found = f"class {name!r} of {images.name} has {len(own)} images"
            raise ValueError(f"{found}: expected at least {wanted}; ask for fewer a class")
        order = own[luck[own].argsort(stable=True)][:wanted]
        first.append(order[:learnt])
        second.append(order[learnt:])
    train, validation = (images.take(torch.cat(rows).sort().values) for rows in (first, second))
    return Evidence(train, validation)


def clean_accuracy(classifier: nn.Module, images: ImageSet) -> Rate:
    """How many images a classifier names rightly; costs one forward pass each."""
    x, y = images.batch(slice(None))
    return Rate(int((predict(classifier, x).argmax(dim=1) == y).sum()), len(x))


def accuracy(classifier: nn.Module, images: ImageSet, meter: Meter) -> float:
    """The same as a share, for a method whose passes are counted."""
    meter.forward += len(images)
    return clean_accuracy(classifier, images).value


@dataclass(frozen=True, eq=False)
class Defended:
    """What a defence hands back.

    Attributes:
        classifier: a repaired copy, or a guarded classifier, in eval mode.
        log: one row a round; row 0 is what it began with.
        cost: everything that was spent, validation included.
        found: pictures that it came upon, by name, ``(C, H, W)`` each: a recovered ``pattern`` and
            its ``mask``, or a perturbation ``delta`` in place of a trigger.
    """

    classifier: nn.Module
    log: list[Row]
    cost: Meter
    found: Mapping[str, Tensor] = field(default_factory=dict)


class Defence(Protocol):
    """A frozen dataclass of numbers; a call gives another classifier back."""

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        """Defend a classifier, which is not changed itself.

        Args:
            classifier: images to logits.
            evidence: what the defence may learn from and stop on.
            seed: names all randomness.
            snapshot: where to keep the state of a long training; what it holds is taken up.
            on_step: told how far the training is.
        """
