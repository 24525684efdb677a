"""The squeezers of feature squeezing (arXiv:1704.01155): images that say less, with one answer."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.models.fields import whole

DEEPEST = 16  # bits of a channel


class BitDepth(nn.Module):
    r"""Round every value to one of :math:`2^b` levels.

    .. math::
        s(x) = \frac{\mathrm{round}\bigl((2^b - 1)\, x\bigr)}{2^b - 1}

    Its slope is zero wherever it has one; the declared surrogate is the identity.

    Args:
        bits: b, of each channel; 1 leaves black and white.

    Raises:
        ValueError: no integer from 1 to 16.
    """

    kind: ClassVar[str] = "bit-depth"

    def __init__(self, *, bits: int = 1) -> None:
        super().__init__()
        if type(bits) is not int or not 1 <= bits <= DEEPEST:
            raise ValueError(f"bits={bits!r}: expected an integer from 1 to {DEEPEST}")
        self.fields: dict[str, Any] = {"bits": bits}
        self._steps: int = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape."""
        return (x * self._steps).round() / self._steps

    def surrogate(self, x: Tensor) -> Tensor:
        """The identity, from which the rounding is at most half a level away."""
        return x


class MedianFilter(nn.Module):
    """Each value becomes the median of the window around it, channel by channel.

    As in the paper: beyond the border lies the mirror image of what is before it, a window of
    even size has its centre below and to the right of its middle, and of an even count of values
    the median is the greater of the two in the middle. The gradient is exact: it goes to the pixel
    that the median is.

    Args:
        size: side of the window, in pixels.

    Raises:
        ValueError: no integer from 1 on.
    """

    kind: ClassVar[str] = "median-filter"

    def __init__(self, *, size: int = 2) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {"size": whole("size", size)}
        self._size = size

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape."""
        side = self._size
        wide = mirrored(x, side // 2, (side - 1) // 2)
        windows = wide.unfold(2, side, 1).unfold(3, side, 1).flatten(4)
        return windows.kthvalue(side**2 // 2 + 1, dim=4).values


class NonLocalMeans(nn.Module):
    r"""Each pixel becomes a mean over those near it whose surroundings look alike.

    .. math::
        s(x)_p = \frac{\sum_q w_{pq}\, x_q}{\sum_q w_{pq}}, \qquad
        w_{pq} = \exp\Bigl(-\frac{\lVert P_p - P_q \rVert_2^2}{d\, h^2}\Bigr)

    with q in the search window around p, and P the patches around both, of d values, all channels
    together (Buades, Coll and Morel, 2005). Beyond the border lies the mirror image. The gradient
    is exact. Cost: the square of ``search`` comparisons of the whole image.

    The paper writes search-patch-strength, 13-3-4, for images of 0 to 255; here the strength h is
    4/255. It runs OpenCV's filter, which compares colours in CIELAB.

    Args:
        search: side of the search window, in pixels, odd.
        patch: side of a patch, in pixels, odd.
        strength: h, in pixel units of [0, 1], above 0.

    Raises:
        ValueError: other settings.
    """

    kind: ClassVar[str] = "non-local-means"

    def __init__(self, *, search: int = 13, patch: int = 3, strength: float = 4 / 255) -> None:
        super().__init__()
        for name, side in (("search", search), ("patch", patch)):
            if not whole(name, side) % 2:
                raise ValueError(f"{name}={side!r}: expected an odd number of pixels")
        checks.in_range("strength", strength, 1e-6)
        self.fields: dict[str, Any] = {
            "search": search,
            "patch": patch,
            "strength": float(strength),
        }
        self._search, self._patch, self._strength = search, patch, strength

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape."""
        around, border = self._search // 2, self._patch // 2
        wide = mirrored(x, around + border, around + border)
        height, width = (side + 2 * border for side in x.shape[2:])
        rows, columns = (slice(border, border + side) for side in x.shape[2:])
        own = wide[:, :, around : around + height, around : around + width]
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for down in range(self._search):
            for right in range(self._search):
                other = wide[:, :, down : down + height, right : right + width]
                unlike = (other - own).square().mean(dim=1, keepdim=True)
                weight = (-F.avg_pool2d(unlike, self._patch, stride=1) / self._strength**2).exp()
                total = total + weight * other[:, :, rows, columns]
                weights = weights + weight
        return total / weights


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """Continue images beyond their borders by their mirror images, ``b a | a b c | c b``.

    Args:
        x: images ``(N, C, H, W)``.
        before: pixels above and to the left, any number.
        after: pixels below and to the right, likewise.
    """
    for dim in (2, 3):
        side = x.shape[dim]
        place = torch.arange(-before, side + after, device=x.device) % (2 * side)
        x = x.index_select(dim, torch.minimum(place, 2 * side - 1 - place))
    return x
