"""What a guard is."""

from typing import Protocol

from bezoar.defence import Defence


class Guard(Defence, Protocol):
    """A defence that leaves the classifier as it is and stands in front of it.

    A call gives the guarded classifier back, which is a classifier itself.
    """
