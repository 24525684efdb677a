"""What guards are worth: attacks by what is known of the guard, in one table.

The figure of most papers is that of an attacker who has the classifier and does not know that
there is a guard (``greybox``). The one that counts is that of an attacker who knows it
(``adaptive``): he follows the exact gradient through the guard, the surrogate where a part of it
declares one, and averages over its noise. ``bpda`` is the same attacker, who takes the guard for
the identity on the way back even where it has a gradient, which may be a masked one. ``transfer``
has another network and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from bezoar import audit
from bezoar.attacks import Attack
from bezoar.attacks.oracle import DRAWS
from bezoar.data.imageset import ImageSet
from bezoar.models import Purified
from bezoar.referee import Measurement, Referee, metric_of, score
from bezoar.results import Facts

Access = Literal["adaptive", "greybox", "bpda", "transfer"]
ACCESSES: tuple[Access, ...] = get_args(Access)


@dataclass(frozen=True)
class Look:
    """A cell of the matrix but for the guard.

    Attributes:
        attack: the method.
        access: what the attacker knows, see the module.
        draws: passes that an answer of a random classifier is averaged over.
    """

    attack: Attack
    access: Access = "adaptive"
    draws: int = DRAWS

    @property
    def metric(self) -> str:
        """Name in tables: that of the attack, after the access unless he knows all."""
        name = metric_of(self.attack)
        return name if self.access == "adaptive" else f"{self.access}:{name}"


def referee(
    look: Look,
    guarded: nn.Module,
    images: ImageSet,
    *,
    seed: int,
    other: nn.Module | None = None,
) -> Referee | None:
    """Who measures a cell; ``None`` where a classifier has no such cell.

    One without a guard has no attacker who ignores it, and one whose purifier declares a surrogate
    has no other gradient than that.

    Args:
        look: the attacker.
        guarded: what is scored; one that is not ``Purified`` and has no ``network`` has no guard.
        images: what it is attacked on.
        seed: names the noise.
        other: the network of an attacker who has none of ours.

    Raises:
        ValueError: an access that there is not, or ``transfer`` without another network.
    """
    aim: nn.Module | None = None
    if look.access == "greybox":
        aim = getattr(guarded, "network", None)
        if aim is None:
            return None
    elif look.access == "bpda":
        aim = straight(guarded)
        if aim is None:
            return None
    elif look.access == "transfer":
        if other is None:
            raise ValueError("access='transfer': expected the attacker's own network beside it")
        aim = other
    elif look.access != "adaptive":
        expected = f"expected one of {', '.join(ACCESSES)}"
        raise ValueError(f"access={look.access!r}: {expected}")
    return Referee(
        look.attack,
        guarded,
        images,
        seed=seed,
        aim=aim,
        metric=look.metric,
        draws=look.draws,
    )


def straight(guarded: nn.Module) -> nn.Module | None:
    """A copy whose purifier is the identity on the way back (BPDA, arXiv:1802.00420, section 4.1).

    ``None`` where there is no purifier, or one that declares its own surrogate.
    """
    if not isinstance(guarded, Purified) or hasattr(guarded.purifier, "surrogate"):
        return None
    copy = deepcopy(guarded)
    # On the object and not in a class of its own: the weights keep their name.
    object.__setattr__(copy.purifier, "surrogate", _identity)
    return copy


def _identity(x: Tensor) -> Tensor:
    return x


def rescored(
    judge: Referee, guarded: nn.Module, images: ImageSet, made: Measurement
) -> Measurement:
    """What ``guarded`` says of images that the same attacker made before, without attacking again.

    Args:
        judge: who would measure the cell.
        guarded: what is scored.
        images: the clean images, the first of those that ``made`` has.
        made: by an attacker who does not know the guard, so that his images do not depend on it.

    Raises:
        ValueError: made on other weights, by another attack, or on other images.
    """
    count = len(images)
    same = ("made_on", "recipe", "data", "seed", "away_from", "target")
    for name in same:
        found, wanted = getattr(made.stamp, name), getattr(judge.stamp, name)
        if found != wanted:
            raise ValueError(f"images with {name}={found!r}: expected {wanted!r}")
    if not np.array_equal(made.facts.index[:count], images.index):
        raise ValueError("images of other positions: expected those of the measurement")
    x, y = images.batch(slice(None))
    x_adv = made.x_adv[:count]
    facts = score(
        guarded,
        x,
        torch.from_numpy(x_adv),
        y,
        images.index,
        norm=judge.stamp.norm,
        keys=judge.stamp.judging(images.index),
        draws=judge.stamp.draws,
    )
    spent = ("first_success", "forward", "backward", "zero_gradient")
    facts |= {name: getattr(made.facts, name)[:count] for name in spent}
    return Measurement(judge.stamp, Facts(**facts), x_adv)


def rows(case: str, seed: int, found: Mapping[str, Measurement]) -> list[audit.Row]:
    """Rows of the result table, by metric: clean accuracy, robust accuracy, distances.

    Clean accuracy is that on the most images. An attack without a radius has the median of the
    distances that it found, where the attacker knows the guard.
    """
    most = max(found.values(), key=lambda m: len(m.facts))
    table = [audit.rate_row(case, seed, "clean", most.facts.clean_accuracy)]
    for metric, measured in found.items():
        table.append(audit.rate_row(case, seed, metric, measured.facts.robust_accuracy))
        if measured.stamp.eps == float("inf") and measured.stamp.access == "white-box":
            table += audit.distances(case, seed, [measured])
    return table


def compared(
    guards: Mapping[str, nn.Module],
    looks: Sequence[Look],
    images: ImageSet,
    *,
    seed: int,
    other: nn.Module | None = None,
    measure: Callable[[str, Referee], Measurement],
) -> list[audit.Row]:
    """The whole matrix: every guard against every attacker.

    Args:
        guards: what is compared, by name; a plain network may be among them.
        looks: the attackers.
        images: what all are attacked on.
        seed: names the noise.
        other: see ``referee``.
        measure: does a measurement of a case, for example ``Run.measure``.
    """
    table: list[Any] = []
    for case, guarded in guards.items():
        found = {}
        for look in looks:
            judge = referee(look, guarded, images, seed=seed, other=other)
            if judge is not None:
                found[look.metric] = measure(case, judge)
        table += rows(case, seed, found)
    return table
