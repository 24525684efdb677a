"""The generator and the critic of Defense-GAN, a Wasserstein GAN (arXiv:1805.06605, 1704.00028)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.models.fields import Shape, checked, whole

SLOPE = 0.2  # of the critic's leaky ReLU below 0


class Generator(nn.Module):
    """Points of a normal distribution to images.

    A linear layer to 4 ``width`` maps and three transposed convolutions, 5x5 with stride 2, to 2
    ``width``, ``width`` and the channels of an image; ReLU between, no batch normalisation, a
    sigmoid at the end. The sides are the image's, halved three times and rounded up: 28 is made
    from 14, 7 and 4, so the second transposed convolution doubles 4 to 8 and is cut to 7, as in
    the paper; 32 from 16, 8 and 4; 8 from 4, 2 and 1. At 1x28x28, ``width=64`` and ``latent=128``
    this is the network of the paper, with 1,554,177 parameters.

    Args:
        shape: channels, height and width of an image.
        latent: numbers in a point.
        width: maps of the layer before the image.

    Raises:
        ValueError: sizes below 1 or absurdly large.
    """

    def __init__(self, *, shape: Shape = (1, 28, 28), latent: int = 128, width: int = 64) -> None:
        super().__init__()
        sides = checked(shape, 2, None, None)["shape"]
        whole("latent", latent)
        whole("width", width)
        self.fields: dict[str, Any] = {"shape": sides, "latent": latent, "width": width}
        sizes = halves(sides)[::-1]
        maps = (4 * width, 2 * width, width, sides[0])
        self.dense = nn.Linear(latent, maps[0] * sizes[0][0] * sizes[0][1])
        self.unflatten = nn.Unflatten(1, (maps[0], *sizes[0]))
        layers = [
            nn.ConvTranspose2d(
                maps[k], maps[k + 1], 5, 2, padding=2, output_padding=extra(sizes[k], sizes[k + 1])
            )
            for k in range(3)
        ]
        self.layers: Any = nn.ModuleList(layers)
        nn.init.kaiming_normal_(self.dense.weight, nonlinearity="relu")
        for layer in layers:
            # Of the 25 places of a kernel a fourth lies on a pixel that was there before.
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * 25 / 4)))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """Points ``(N, latent)`` to images ``(N, C, H, W)`` in (0, 1)."""
        maps: Tensor = F.relu(self.unflatten(self.dense(z)))
        for layer in self.layers[:-1]:
            maps = F.relu(layer(maps))
        last = self.layers[-1]
        image = interleaved(maps, last.weight, self.fields["shape"]) + last.bias[:, None, None]
        made: Tensor = image.sigmoid()
        return made


class Critic(nn.Module):
    """Images to scores, high for real ones; the generator turned around.

    Three convolutions, 5x5 with stride 2, to ``width``, 2 ``width`` and 4 ``width`` maps, leaky
    ReLU of slope 0.2, and a linear layer. At 1x28x28 and ``width=64`` 1,030,145 parameters.

    Args:
        shape: channels, height and width of an image.
        width: maps of the first layer.

    Raises:
        ValueError: sizes below 1 or absurdly large.
    """

    def __init__(self, *, shape: Shape = (1, 28, 28), width: int = 64) -> None:
        super().__init__()
        sides = checked(shape, 2, None, None)["shape"]
        whole("width", width)
        self.sizes = halves(sides)
        maps = (sides[0], width, 2 * width, 4 * width)
        self.layers: Any = nn.ModuleList(
            nn.Conv2d(maps[k], maps[k + 1], 5, stride=2, padding=2) for k in range(3)
        )
        height, columns = self.sizes[-1]
        self.last = nn.Linear(maps[-1] * height * columns, 1)
        for layer in (*self.layers, self.last):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to scores ``(N,)``."""
        maps = x
        for layer in self.layers:
            maps = F.leaky_relu(layer(maps), SLOPE)
        scores: Tensor = self.last(maps.flatten(1))
        return scores.squeeze(1)

    def gradient(self, x: Tensor) -> Tensor:
        r"""Gradient of each score with respect to its image, to be differentiated by the weights.

        The critic is linear between the kinks of its ReLUs, so with the slopes
        :math:`S_k(x)`, constant almost everywhere,

        .. math:: \nabla D(x) = W_1^T S_1 W_2^T S_2 W_3^T S_3\, w .

        That is what autograd finds with ``create_graph``, at half the price: it would also send
        zeros back through the slopes, and its second derivative of a convolution is slow.

        Args:
            x: images ``(N, C, H, W)``.

        Returns:
            ``(N, C, H, W)``, a function of the weights; its dependence on ``x`` is not kept.
        """
        slopes = []
        with torch.no_grad():
            maps = x
            for layer in self.layers:
                maps = F.leaky_relu(layer(maps), SLOPE)
                slopes.append(torch.ones_like(maps).masked_fill_(maps <= 0, SLOPE))
        back = self.last.weight.reshape(1, *slopes[-1].shape[1:])
        for k in (2, 1):
            back = F.conv_transpose2d(
                back * slopes[k],
                self.layers[k].weight,
                stride=2,
                padding=2,
                output_padding=extra(self.sizes[k + 1], self.sizes[k]),
            )
        return interleaved(back * slopes[0], self.layers[0].weight, x.shape[1:])


def interleaved(maps: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """The transposed convolution that makes an image: 5x5, stride 2, padding 2.

    Even and odd rows and columns of the image are convolutions of ``maps`` of their own, 3x3. With
    as few maps as an image has channels that takes a fourth of the time of ``conv_transpose2d``.

    Args:
        maps: ``(N, M, h, w)``.
        weight: ``(M, C, 5, 5)``.
        shape: ``(C, H, W)``, sides of 2h or 2h - 1 and of 2w or 2w - 1.

    Returns:
        ``(N, C, H, W)``.
    """
    inside, channels = weight.shape[:2]
    # Row 2t + p of the kernel adds row i of the maps to row 2(i + t - 1) + p of the image.
    parts = F.pad(weight, (0, 1, 0, 1)).reshape(inside, channels, 3, 2, 3, 2).flip(2, 4)
    kernel = parts.permute(1, 3, 5, 0, 2, 4).reshape(4 * channels, inside, 3, 3)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    image = F.pixel_shuffle(F.conv2d(maps, kernel, padding=1), 2)
    return image[:, :, : shape[1], : shape[2]]


def halves(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of an image, and of its halves, quarters and eighths, rounded up."""
    return [(-(-shape[1] // part), -(-shape[2] // part)) for part in (1, 2, 4, 8)]


def extra(small: tuple[int, int], large: tuple[int, int]) -> tuple[int, int]:
    """What the sides of a transposed convolution have above 2n - 1: 0, or 1 where they double."""
    return large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1
