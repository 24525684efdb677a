"""JPEG compression as a purifier, and what an attacker takes for its gradient."""

import io
import math
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

MODES = {1: "L", 3: "RGB"}  # Pillow's names of grey and colour
BLOCK = 8


class JPEG(nn.Module):
    r"""Images after a real JPEG encoder and decoder, those of Pillow.

    .. math::
        \hat x = \mathrm{decode}\bigl(\mathrm{encode}_q(x)\bigr)

    Pixels are rounded to 8 bits first. Colour has chroma at half the resolution, Pillow's default
    and that of the papers (arXiv:1608.00853, arXiv:1802.06816). The encoder gives no gradient, so
    ``surrogate`` is declared and the attacks go through it.

    The quantisation tables are buffers: two qualities are two classifiers to ``weights_hash``.

    Args:
        quality: 1 to 100 as Pillow has it; less loses more.

    Raises:
        ValueError: another quality.
    """

    kind: ClassVar[str] = "jpeg"
    tables: Tensor

    def __init__(self, *, quality: int = 75) -> None:
        super().__init__()
        if type(quality) is not int or not 1 <= quality <= 100:
            raise ValueError(f"quality={quality!r}: expected an integer from 1 to 100")
        self.fields: dict[str, Any] = {"quality": quality}
        # The encoder's own, of luma and chroma, rows of vertical and columns of horizontal waves.
        with _encoded(np.zeros((BLOCK, BLOCK, 3), np.uint8), quality) as image:
            tables = [image.quantization[k] for k in (0, 1)]  # type: ignore[attr-defined]
        self.register_buffer("tables", torch.tensor(tables, dtype=torch.float32).reshape(2, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape, multiples of 1/255.

        Cost: an encoding and a decoding an image, one after the other on the CPU.

        Raises:
            ValueError: neither one channel nor three.
        """
        mode = _mode(x)
        pixels = x.detach().mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        made = np.empty_like(pixels)
        for k, image in enumerate(pixels):
            with _encoded(image[:, :, 0] if mode == "L" else image, self.fields["quality"]) as read:
                made[k] = np.asarray(read).reshape(image.shape)
        return torch.from_numpy(made).permute(0, 3, 1, 2).to(x) / 255

    def surrogate(self, x: Tensor) -> Tensor:
        """The same steps with a smooth rounding, differentiable, ``(N, C, H, W)``.

        The cosine transform of blocks of 8x8 is quantised by the encoder's tables, and a number v
        is rounded to :math:`[v] + r^3 + r / 4` with :math:`r = v - [v]`. Without the last term this
        is the rounding of Shin and Song ("JPEG-resistant adversarial images", 2017), whose gradient
        is zero at whole numbers, so in a black block everywhere; attacks were stronger with it.
        Nor are pixels cut to [0, 1] at the end, which would stop the gradient wherever a wave of a
        block undershoots.
        """
        if _mode(x) == "L":
            return _quantised(x * 255 - 128, self.tables[0]).add(128) / 255
        height, width = x.shape[2:]
        mixing = torch.tensor(TO_YCC, dtype=x.dtype, device=x.device)
        luma, chroma = torch.einsum("oc,nchw->nohw", mixing, x * 255).split([1, 2], dim=1)
        luma = _quantised(luma - 128, self.tables[0]) + 128
        # Pairs of rows and columns are averaged; the way back is that of the decoder, linear.
        halves = F.avg_pool2d(F.pad(chroma, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        halves = _quantised(halves, self.tables[1])
        chroma = F.interpolate(halves, scale_factor=2, mode="bilinear")[:, :, :height, :width]
        return torch.einsum(
            "oc,nchw->nohw", torch.linalg.inv(mixing), torch.cat([luma, chroma], dim=1)
        ).div(255)


# Red, green and blue to luma and the two differences of colour, by the JFIF standard.
TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)


def _mode(x: Tensor) -> str:
    if x.shape[1] not in MODES:
        expected = "expected 1 or 3; JPEG knows grey and colour only"
        raise ValueError(f"images of {x.shape[1]} channels: {expected}")
    return MODES[x.shape[1]]


def _encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]], quality: int) -> Image.Image:
    """Pixels ``(H, W)`` or ``(H, W, 3)`` as the JPEG file that Pillow makes of them, opened."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return Image.open(file)


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Planes ``(N, C, H, W)`` around 0 through the quantised cosine transform of their blocks."""
    height, width = planes.shape[2:]
    padded = F.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    blocks = padded.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
    waves = _waves().to(planes)
    steps = table.to(planes)
    kept = steps * _rounded(waves @ blocks @ waves.T / steps)
    made = (waves.T @ kept @ waves).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return made[:, :, :height, :width]


def _waves() -> Tensor:
    """The orthonormal cosine transform of eight numbers, ``(8, 8)``, one wave a row."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    waves = torch.cos(math.pi / BLOCK * (place + 0.5) * place[:, None]) * math.sqrt(2 / BLOCK)
    waves[0] /= math.sqrt(2)
    return waves


def _rounded(v: Tensor) -> Tensor:
    whole = v.detach().round()
    rest = v - whole
    return whole + rest**3 + rest / 4
