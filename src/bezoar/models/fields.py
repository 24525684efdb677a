"""The arguments that all networks share, checked."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

Shape = tuple[int, int, int]

# Far above any image classifier, far below what would overflow: for files that lie.
LONGEST = 2**14
MOST_CLASSES = 2**20


def checked(
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> dict[str, Any]:
    """Arguments of a network as plain lists and numbers, to be stored and given again.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a mean or std that does not fit them.
    """
    sides = list(shape)
    if len(sides) != 3 or not all(type(side) is int and 1 <= side <= LONGEST for side in sides):
        expected = f"expected (C, H, W), integers from 1 to {LONGEST}"
        raise ValueError(f"shape={shape!r}: {expected}")
    if type(classes) is not int or not 2 <= classes <= MOST_CLASSES:
        raise ValueError(f"classes={classes!r}: expected an integer from 2 to {MOST_CLASSES}")
    return {
        "shape": sides,
        "classes": classes,
        "mean": _by_channel("mean", [0.0] * sides[0] if mean is None else mean, sides[0]),
        "std": _by_channel("std", [1.0] * sides[0] if std is None else std, sides[0]),
    }


def whole(name: str, value: int) -> int:
    """Require a size of layers: an integer from 1 to ``LONGEST``.

    Raises:
        ValueError: another number, or none.
    """
    if type(value) is not int or not 1 <= value <= LONGEST:
        raise ValueError(f"{name}={value!r}: expected an integer from 1 to {LONGEST}")
    return value


def _by_channel(name: str, values: Sequence[float], channels: int) -> list[float]:
    numbers = [isinstance(value, Real) and math.isfinite(value) for value in values]
    if len(numbers) != channels or not all(numbers):
        expected = f"expected one finite number a channel, {channels} in all"
        raise ValueError(f"{name}={list(values)!r}: {expected}")
    return [float(value) for value in values]
