"""TI-FGSM: gradients smoothed over shifts of the image."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.mi_fgsm import Momentum, at_rest, moved
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.seeds import Noise


@dataclass(frozen=True, kw_only=True)
class TIFGSM(Attack):
    r"""MI-FGSM on gradients averaged over small shifts of the image.

    .. math::
        \nabla = W * \nabla_x L(f(x_t), y), \qquad
        W_{ij} \propto \exp\Bigl(-\frac{i^2 + j^2}{2\sigma^2}\Bigr)

    A network that gives shifted images nearly the same gradients, shifted, makes the average one
    convolution. Paper: arXiv:1904.02884, section 3.3, there with a kernel of 15 for images of 299.
    Cost: ``steps`` forward and backward passes an image, and one forward pass to judge the last
    point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps, each of length eps / steps.
        decay: the factor mu of the momentum; 0 forgets past gradients.
        kernel: pixels along the kernel W, odd.
        sigma: its deviation in pixels.
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    kernel: int = 5
    sigma: float = 1.0
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)
        checks.at_least("kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: expected an odd number of pixels")
        checks.in_range("sigma", self.sigma, 1e-3)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Momentum:
        return at_rest(x, noise)

    def step(self, state: Momentum, oracle: Oracle) -> Momentum:
        _, gradient = oracle.gradient(state.x_adv, cross_entropy)
        channels, half = gradient.shape[1], self.kernel // 2
        place = torch.arange(-half, half + 1).to(gradient)
        line = torch.softmax(-place.square() / (2 * self.sigma**2), dim=0)
        weight = torch.outer(line, line).expand(channels, 1, -1, -1)
        smooth = F.conv2d(gradient, weight, padding=half, groups=channels)
        return moved(state, smooth, self.eps, self.steps, self.decay)

    def best(self, state: Momentum) -> Tensor:
        return state.x_adv
