"""What a repair or a measurement costs: counted in passes, so that machines can be compared."""

from dataclasses import asdict, dataclass


@dataclass
class Meter:
    """A running count. One forward or backward pass is one image through the network, one way.

    Attributes:
        images: images that were trained on, as often as they were.
        forward: forward passes, those of attacks, validation and trials included.
        backward: backward passes, towards the weights or towards the image.
        seconds: wall time.
    """

    images: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    @property
    def passes(self) -> int:
        """Forward and backward passes together."""
        return self.forward + self.backward

    def as_dict(self) -> dict[str, float]:
        """The four numbers by name."""
        return asdict(self)
