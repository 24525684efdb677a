"""Black around images that are smaller than what the layers of a network can take."""

from torch import nn

from bezoar.models.fields import Shape


def padded(shape: Shape, smallest: int) -> tuple[int, int]:
    """Height and width after padding."""
    return max(shape[1], smallest), max(shape[2], smallest)


def padding(shape: Shape, smallest: int) -> nn.Module:
    """Black around images that are below the smallest side; an odd row goes below and right."""
    height, width = (
        side - given for side, given in zip(padded(shape, smallest), shape[1:], strict=True)
    )
    if not height and not width:
        return nn.Identity()
    top, left = height // 2, width // 2
    return nn.ZeroPad2d((left, width - left, top, height - top))
