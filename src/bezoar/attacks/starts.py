"""Where attacks begin: random points of the ball, cut to the image box."""

import torch
from torch import Tensor

from bezoar.geometry import linf_radius
from bezoar.seeds import Noise


def in_ball(x: Tensor, eps: float, norm: str, noise: Noise) -> Tensor:
    """A uniform random point of the ``linf`` or ``l2`` ball of radius eps around each image."""
    if norm == "linf":
        return (x + linf_radius(eps) * noise.uniform(x.shape[1:]).to(x)).clamp(0, 1)
    # The first d of d + 2 coordinates of a uniform point of the sphere are uniform in the ball.
    size = x[0].numel()
    sphere = torch.nn.functional.normalize(noise.normal((size + 2,)), dim=1)
    return (x + eps * sphere[:, :size].reshape(x.shape).to(x)).clamp(0, 1)
