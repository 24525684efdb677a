"""Where the state of long work is kept while it is not done, so that it goes on to the bit."""

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
