"""The log of a repair that works in several parts, or in more epochs than anyone wants to read."""

from collections.abc import Callable, Sequence

from bezoar.fit import Judgement, Row

ROUNDS = 20  # of a part with many epochs


def now_and_then(epochs: int, row: Callable[[], Row]) -> Callable[[int], Judgement]:
    """A judge that asks for a row before the first epoch, and some twenty times in all of them."""
    every = max(1, epochs // ROUNDS)
    return lambda epoch: Judgement(row() if (epoch + 1) % every == 0 else {})


def joined(*parts: Sequence[Row]) -> list[Row]:
    """One log of several: the judged rows, numbered anew, with the number of their ``part``."""
    judged = [
        {**row, "part": float(part)}
        for part, rows in enumerate(parts, start=1)
        for row in rows
        if "clean" in row
    ]
    return [{**row, "round": float(number)} for number, row in enumerate(judged)]
