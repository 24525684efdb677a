"""Images moved and mirrored at random, so that a network learns from more of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bezoar import checks


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Move each image by some pixels and mirror half of them; the usual for small photographs.

    What is drawn comes from torch's global generator, to which ``fit.fit`` gives a state of its own
    in each step.

    Args:
        shift: pixels that an image is moved by at most, each way; what comes in is black.
        flip: whether to mirror, left to right; not for digits or traffic signs.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        checks.at_least("shift", self.shift, 0)

    def __call__(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to images of the same shape."""
        count, _, height, width = x.shape
        if self.shift:
            wide = F.pad(x, (self.shift,) * 4)
            down, right = torch.randint(2 * self.shift + 1, (2, count, 1), device=x.device)
            rows = (down + torch.arange(height, device=x.device))[:, :, None]
            columns = (right + torch.arange(width, device=x.device))[:, None, :]
            number = torch.arange(count, device=x.device)[:, None, None]
            x = wide.permute(0, 2, 3, 1)[number, rows, columns].permute(0, 3, 1, 2)
            x = x.contiguous()  # convolutions follow the layout of images, see classifier.laid_out
        if self.flip:
            mirrored = torch.rand(count, device=x.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return x
