"""Train, validation and test: seeded, disjoint, complete, with the same share of each class.

Shuffling sorts raw words of the counter-based generator Philox. Those are fixed by its
definition, while ``Generator.permutation`` may change between releases of numpy: a split has to
stay the same for as long as results are compared.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bezoar.data.imageset import DataSet, ImageSet
from bezoar.seeds import derive

SHARES = (0.6, 0.2, 0.2)


def stratified(
    labels: NDArray[np.integer], parts: Sequence[float], seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Cut rows ``0 .. N - 1`` into parts that have the classes in the same proportions.

    A part of n rows gets the whole number of rows of each class that is next to its exact
    share; the rows left over by rounding go to the largest remainders.

    Args:
        labels: class of each row, ``(N,)``.
        parts: shares that add up to 1, or integer counts that add up to N.
        seed: equal seeds give equal parts.

    Returns:
        One ascending array of rows a part.

    Raises:
        ValueError: parts that are negative or do not add up.

    >>> stratified(np.array([0, 0, 0, 1, 1, 1]), (4, 2), seed=0)
    (array([0, 2, 3, 4]), array([1, 5]))
    """
    counts = _counts(parts, len(labels))
    kinds, class_of = np.unique(labels, return_inverse=True)
    left = np.bincount(class_of, minlength=len(kinds))
    # Rows by class, and shuffled within the class: each part takes the next rows of each class.
    shuffle = np.random.Philox(key=derive(seed, "stratified")).random_raw(len(labels))
    order = np.lexsort((shuffle, class_of))
    ends = np.cumsum(left)
    rows = []
    for count in counts:
        start = ends - left
        share = _apportion(left, count)
        chosen = [order[s : s + n] for s, n in zip(start, share, strict=True)]
        rows.append(np.sort(np.concatenate(chosen)))
        left = left - share
    return tuple(rows)


def by_group(
    labels: NDArray[np.integer], groups: NDArray[np.integer], parts: Sequence[float], seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Cut rows into parts without tearing a group apart; stratified over groups by class.

    Args:
        labels: class of each row, ``(N,)``.
        groups: group of each row, ``(N,)``; a group has one class.
        parts: shares of the groups that add up to 1, or integer counts of groups.
        seed: equal seeds give equal parts.

    Raises:
        ValueError: a group with two classes, or parts that are negative or do not add up.
    """
    names, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    group_labels = labels[first]
    torn = group_labels[group_of] != labels
    if torn.any():
        row = int(np.argmax(torn))
        found = f"group {groups[row]} has classes {group_labels[group_of[row]]} and {labels[row]}"
        raise ValueError(f"{found}: expected one class a group")
    part_of = np.empty(len(names), dtype=np.int64)
    members = stratified(group_labels, parts, seed)
    for part, chosen in enumerate(members):
        part_of[chosen] = part
    return tuple(np.flatnonzero(part_of[group_of] == part) for part in range(len(members)))


def three_ways(whole: ImageSet, seed: int) -> DataSet:
    """Cut a set without official splits: 60 % train, 20 % validation, 20 % test."""
    train, validation, test = _cut(whole, SHARES, seed)
    return DataSet(
        whole.name,
        whole.classes,
        _named(whole, train, "train"),
        _named(whole, validation, "validation"),
        _named(whole, test, "test"),
    )


def hold_out(train: ImageSet, test: ImageSet, share: float, seed: int) -> DataSet:
    """Take the validation split out of ``train``; ``train.name`` names the set.

    Args:
        train: all images that are not for testing.
        test: kept as it is.
        share: share of ``train`` that becomes validation, of its groups where it has some.
        seed: seed of the split.
    """
    kept, held = _cut(train, (1 - share, share), seed)
    return DataSet(
        train.name,
        train.classes,
        _named(train, kept, "train"),
        _named(train, held, "validation"),
        replace(test, name=f"{train.name}/test"),
    )


def _cut(whole: ImageSet, parts: Sequence[float], seed: int) -> tuple[NDArray[np.int64], ...]:
    labels, own = whole.labels.numpy(), derive(seed, "split", whole.name)
    if whole.groups is None:
        rows = stratified(labels, parts, own)
    else:
        try:
            rows = by_group(labels, whole.groups, parts, own)
        except ValueError as error:
            raise ValueError(f"{whole.name}: {error}") from error
    if not all(map(len, rows)):
        sizes = [len(part) for part in rows]
        raise ValueError(f"{whole.name} cut into {sizes} images: expected at least one a split")
    return rows


def _named(whole: ImageSet, rows: NDArray[np.int64], split: str) -> ImageSet:
    return replace(whole.take(rows), name=f"{whole.name}/{split}")


def _counts(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total``."""
    whole = all(isinstance(part, int) for part in parts)
    expected = total if whole else 1
    if min(parts, default=-1) < 0 or not abs(sum(parts) - expected) < 1e-9:
        raise ValueError(f"parts={tuple(parts)}: expected shares of 1 or counts of {total}")
    if whole:
        return [int(part) for part in parts]
    ends = np.rint(np.cumsum(parts) * total).astype(int)
    return [int(count) for count in np.diff(ends, prepend=0)]


def _apportion(left: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Largest remainder method: ``count`` seats in proportion to ``left``, none above it."""
    # Integer arithmetic, so that an exact tie is a tie on every machine.
    seats, remainder = np.divmod(left * count, max(1, left.sum()))
    missing = count - int(seats.sum())
    seats[np.argsort(-remainder, kind="stable")[:missing]] += 1
    return seats
