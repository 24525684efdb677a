"""Where the state of long work is kept while it is not done, so that it goes on to the bit."""

from collections.abc import Callable
from typing import Any, Protocol

Tree = dict[str, Any]
"""Nested dicts, lists and tuples of tensors and numbers."""


class Snapshot(Protocol):
    """A place for the state of work that may be interrupted."""

    def load(self) -> Tree | None:
        """The state saved last, or nothing."""

    def save(self, state: Tree) -> None:
        """Replace the state saved last, as a whole or not at all."""


class Part(Snapshot):
    """The state of a part of the work, kept together with what is known of the whole.

    Args:
        whole: where the state of the whole work is kept.
        around: the rest of that state.
        inside: the state of the part so far, if there is one.
    """

    def __init__(self, whole: Snapshot, around: Tree, inside: Tree | None) -> None:
        self._whole, self._around, self._inside = whole, around, inside

    def load(self) -> Tree | None:
        return self._inside

    def save(self, state: Tree) -> None:
        self._whole.save({**self._around, "inside": state})


class Stages:
    """Work in several parts, one after the other, in one place for their state.

    What a part gave is kept when it is done, so it is not done again; the part in which the work
    was interrupted goes on where it was.

    Args:
        snapshot: where all of it is kept; ``None`` keeps nothing.
    """

    def __init__(self, snapshot: Snapshot | None) -> None:
        state = (snapshot.load() if snapshot else None) or {}
        self._snapshot, self._done = snapshot, dict(state.get("done", {}))
        self._inside: Tree | None = state.get("inside")

    def __call__(self, name: str, work: Callable[[Snapshot | None], Tree]) -> Tree:
        """What the part of that name gives; ``work`` does it, if it is not done.

        Args:
            name: tells the parts from each other.
            work: takes a place for its own state; gives tensors, numbers and what holds such.
        """
        if name not in self._done:
            part = None
            if self._snapshot is not None:
                part = Part(self._snapshot, {"done": self._done}, self._inside)
            self._done[name], self._inside = work(part), None
            if self._snapshot is not None:
                self._snapshot.save({"done": self._done, "inside": None})
        made: Tree = self._done[name]
        return made
