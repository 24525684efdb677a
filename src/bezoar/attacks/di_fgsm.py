"""DI-FGSM: gradients of images that were shrunk and moved at random."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.mi_fgsm import Momentum, at_rest, moved
from bezoar.attacks.protocol import Attack, Oracle
from bezoar.geometry import chosen
from bezoar.seeds import Noise, hashed


@dataclass(frozen=True, kw_only=True)
class DIFGSM(Attack):
    r"""MI-FGSM on gradients of randomly transformed images.

    .. math::
        \nabla = \nabla_x L\bigl(f(T(x_t)), y\bigr)

    where T, with probability p, shrinks the image by a random factor and puts it at a random place
    on black, and else leaves it as it is. Paper: arXiv:1803.06978, section 3.3. There images grow
    and the network takes the larger ones; networks for one size only cannot, so here they shrink.
    Cost: ``steps`` forward and backward passes an image, and one forward pass to judge the last
    point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps, each of length eps / steps.
        decay: the factor mu of the momentum; 0 forgets past gradients.
        p: probability of a transformation.
        smallest: the smallest factor, in (0, 1].
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    p: float = 0.5
    smallest: float = 0.9
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)
        checks.in_range("p", self.p, 0, 1)
        checks.in_range("smallest", self.smallest, 1e-3, 1)

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Momentum:
        return at_rest(x, noise)

    def step(self, state: Momentum, oracle: Oracle) -> Momentum:
        draws = hashed(state.key, state.age, (4,)).to(state.x)
        with torch.enable_grad():
            x = state.x_adv.detach().requires_grad_()
            seen = _transformed(x, draws, self.p, self.smallest)
        _, of_seen = oracle.gradient(seen.detach(), cross_entropy)
        (gradient,) = torch.autograd.grad(seen, x, of_seen)
        return moved(state, gradient, self.eps, self.steps, self.decay)

    def best(self, state: Momentum) -> Tensor:
        return state.x_adv


def _transformed(x: Tensor, draws: Tensor, p: float, smallest: float) -> Tensor:
    """Shrink and move each image by its own four draws from U[0, 1)."""
    scale = smallest + (1 - smallest) * draws[:, 1]
    scale = torch.where(draws[:, 0] < p, scale, 1.0)
    shift = (2 * draws[:, 2:] - 1) * (1 - scale)[:, None]  # of the centre; the image spans 2
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -shift / scale[:, None]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, align_corners=False)
    return chosen(scale < 1, moved, x)
