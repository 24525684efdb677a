"""What a repair or a measurement costs, in passes, and what a classifier costs, in seconds.

Passes are what machines can be compared by; seconds are of one machine.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


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


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one part of a classifier takes for a batch; see ``bezoar.latency``.

    Attributes:
        part: ``whole``, ``guard`` or ``classifier``.
        batch: images in a pass.
        seconds: of each timed run, in their order.
        memory: peak of what a pass holds beside its weights and its images, in bytes.
        transfer: median seconds that a batch takes to the device; 0 on the CPU, where it is.
        device: where it ran.
        threads: torch's threads on the CPU.
    """

    part: str
    batch: int
    seconds: tuple[float, ...]
    memory: int
    transfer: float
    device: str
    threads: int

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return len(self.seconds)

    @property
    def median(self) -> float:
        """Median seconds a batch."""
        return float(np.median(self.seconds))

    @property
    def p99(self) -> float:
        """Seconds a batch that 99 of 100 runs do not exceed; of fewer runs, the slowest."""
        return float(np.quantile(self.seconds, 0.99, method="inverted_cdf"))

    @property
    def each(self) -> float:
        """Median seconds an image."""
        return self.median / self.batch

    @property
    def rate(self) -> float:
        """Images a second, by the median."""
        return self.batch / self.median


def ratio(measured: Sequence[Latency], batch: int) -> float | None:
    """How many times as long as the classifier alone the whole takes, at a size of batch.

    The median over the rounds of the protocol, each of which timed both: what slows the machine
    down for a while slows both down. ``None`` where one of the two was not measured.
    """
    found = {one.part: one.seconds for one in measured if one.batch == batch}
    if not {"whole", "classifier"} <= set(found):
        return None
    rounds = zip(found["whole"], found["classifier"], strict=True)
    return float(np.median([whole / alone for whole, alone in rounds]))
