"""How much a channel can amplify what comes into it: the numbers that CLP reads."""

import torch
from torch import Tensor

from bezoar.channels import Layer

ROUNDING = 1e-6  # of a constant: filters that are equal up to it have no outlier


def constants(layer: Layer) -> Tensor:
    r"""Lipschitz constant of each channel of a convolution with its batch norm, ``(channels,)``.

    .. math::
        L_k = \sigma_{\max}(W_k)\, \frac{|\gamma_k|}{\sqrt{s_k^2 + \epsilon}}

    with :math:`W_k` the filter as a matrix ``(inputs, height * width)``; without a batch norm, or
    where it has no statistics, the second factor is 1. arXiv:2208.03111, section 4. Float64, on the
    layer's device.
    """
    rows = layer.conv.weight.detach().double().flatten(2)  # (channels, inputs, height * width)
    short = rows if rows.shape[1] < rows.shape[2] else rows.transpose(1, 2)
    # The eigenvalues of the smaller product are the squared singular values: no SVD is needed.
    largest = torch.linalg.eigvalsh(short @ short.transpose(1, 2))[:, -1]
    found: Tensor = largest.clamp_min(0).sqrt()
    norm = layer.norm
    if norm is None or norm.running_var is None:
        return found
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    return found * norm.weight.detach().double().abs() / deviation


def deviations(values: Tensor) -> Tensor:
    """How far each value ``(n,)`` lies above the mean, in standard deviations of all of them."""
    least = ROUNDING * values.abs().max() + 1e-300
    scaled: Tensor = (values - values.mean()) / values.std(correction=0).clamp_min(least)
    return scaled
