"""Randomness by name: every stream has its own seed, every image its own noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def derive(seed: int, *path: str | int) -> int:
    """Give the stream named by ``path`` its own seed, 0 <= seed < 2**63.

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Make a CPU generator: its draws do not depend on the device that runs the model."""
    return torch.Generator().manual_seed(derive(seed, *path))


@dataclass(frozen=True)
class Noise:
    """The randomness of some images: what one draws does not depend on which others are there.

    Draw ``d`` of image ``i`` comes from the counter-based generator Philox (Salmon et al., 2011),
    keyed by (seed, stream) with (i, d) in the upper half of its counter.

    Args:
        seed: seed of the run.
        stream: name of the stream, for example ``"pgd/test"``.
        index: the images' positions in their source, ``(N,)`` integers >= 0.
        draws: number of the draw of each image, ``(N,)`` integers >= 0; a restart is a new draw.
    """

    seed: int
    stream: str
    index: NDArray[np.int64]
    draws: NDArray[np.int64]

    @classmethod
    def first(cls, seed: int, stream: str, index: NDArray[np.int64]) -> "Noise":
        """Draw 0 of every image."""
        return cls(seed, stream, index, np.zeros_like(index))

    def take(self, rows: NDArray[np.int64], draws: NDArray[np.int64]) -> "Noise":
        """The same stream for some of the images, with new draw numbers."""
        return Noise(self.seed, self.stream, self.index[rows], draws)

    def _generators(self) -> list[np.random.Generator]:
        key = derive(self.seed, "noise", self.stream)
        counters = zip(self.index.tolist(), self.draws.tolist(), strict=True)
        return [
            np.random.Generator(np.random.Philox(key=key, counter=[0, 0, draw, image]))
            for image, draw in counters
        ]

    def keys(self) -> Tensor:
        """A key of each image's draw for ``hashed``, ``(N,)`` int64 on the CPU."""
        rows = [g.integers(0, 2**63, dtype=np.int64) for g in self._generators()]
        return torch.from_numpy(np.array(rows, dtype=np.int64))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Noise from U[-1, 1), float32 ``(N, *shape)`` on the CPU."""
        rows = [g.random(shape, dtype=np.float32) for g in self._generators()]
        return torch.from_numpy(np.stack(rows)).mul_(2).sub_(1)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Noise from N(0, 1), float32 ``(N, *shape)`` on the CPU."""
        rows = [g.standard_normal(shape, dtype=np.float32) for g in self._generators()]
        return torch.from_numpy(np.stack(rows))


def hashed(keys: Tensor, steps: Tensor, shape: Sequence[int]) -> Tensor:
    """Noise from U[0, 1) for the steps of an attack, made where the images are.

    Element e of image n is the SplitMix64 hash (Steele, Lea and Flood, 2014) of its key, the
    number of its step and e, so it depends neither on its neighbours nor on earlier draws.

    Args:
        keys: as ``Noise.keys`` gives them, ``(N,)`` int64.
        steps: number of each image's step, ``(N,)`` int64, 0 to 2**23.
        shape: of one image's noise, at most 2**40 elements.

    Returns:
        Float32, ``(N, *shape)``, on the device of ``keys``.
    """
    size = int(np.prod(shape))
    element = torch.arange(size, dtype=torch.int64, device=keys.device)
    # Odd multiplier: steps and elements are told apart before they are mixed.
    z = _mixed(keys[:, None] + ((steps << 40)[:, None] + element) * GOLDEN)
    return (_shifted(z, 40).to(torch.float32) / 2**24).reshape(len(keys), *shape)  # 24 bits, exact


def subkeys(keys: Tensor, numbers: Tensor | int) -> Tensor:
    """Keys of the streams ``numbers``, 0 to 2**62, within the streams of ``keys``: ``(N,)`` int64.

    They share nothing with each other, nor with what ``hashed`` makes of ``keys``.
    """
    numbers = torch.as_tensor(numbers, device=keys.device)
    return _mixed(keys - (numbers + 1) * GOLDEN)  # steps and elements of ``hashed`` are added


def hashed_normal(keys: Tensor, steps: Tensor, shape: Sequence[int]) -> Tensor:
    """Noise from N(0, 1) for the steps of an attack, by Box and Muller from ``hashed``."""
    first, second = hashed(keys, steps, (2, *shape)).unbind(dim=1)
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


def _mixed(z: Tensor) -> Tensor:
    """The last part of SplitMix64: every bit of the result depends on every bit of z."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _signed(word: int) -> int:
    """An unsigned 64-bit word as torch's int64, which wraps around like it."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right; that of int64 would copy the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


GOLDEN = _signed(0x9E3779B97F4A7C15)
