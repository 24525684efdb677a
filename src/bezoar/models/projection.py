"""Projection onto what a generator can make: the purifier of Defense-GAN (arXiv:1805.06605)."""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.models.fields import Shape, whole
from bezoar.models.gan import Generator
from bezoar.seeds import hashed_normal

ROWS = 512  # starts in a pass: bounds the memory
WINDOW = 10  # steps over which an improvement is looked for


class Reconstruction(NamedTuple):
    """What the search found.

    Attributes:
        images: the nearest images of the generator, ``(N, C, H, W)`` in (0, 1).
        error: their mean squared errors, ``(N,)``.
        passes: steps taken for each image over all its starts, ``(N,)`` int64; each is one forward
            and one backward pass of the generator.
    """

    images: Tensor
    error: Tensor
    passes: Tensor


class Projection(nn.Module):
    r"""The image of a generator that is nearest to the one given, found by descent.

    .. math::
        x \mapsto G(z^*), \qquad z^* = \arg\min_z \tfrac1d \lVert G(z) - x\rVert_2^2

    Each image has ``restarts`` starts :math:`z_0 \sim N(0, \sigma^2 I)`. Each of them takes
    ``steps`` steps of gradient descent with momentum,

    .. math::
        v \leftarrow \mu v + \nabla_z \tfrac1d \lVert G(z) - x\rVert_2^2, \qquad
        z \leftarrow z - \eta v,

    with the rate :math:`\eta` ten times smaller after the first ``ceil(.8 steps)`` of them. The
    start that ends with the smallest error is taken; choices and rates of one image depend on no
    other. With ``tolerance=0`` every start takes all its steps, as in the paper; above 0 one leaves
    when its error fell by a smaller share than that over ten steps.

    Gradient: the search is not differentiated. The identity stands in (BPDA, arXiv:1802.00420),
    as G(z*) is close to x; ``unrolled`` is the true one, for few steps. The starts are declared
    noise, so the attacks average over them.

    Cost: ``restarts * steps`` passes each way through the generator an image, at most, and
    ``restarts`` forward to choose.

    Args:
        shape: channels, height and width of an image.
        latent: numbers in a point of the generator.
        width: maps of the generator's layer before the image.
        steps: steps of a start.
        restarts: starts of an image.
        lr: the rate; the error is a mean over pixels, so it is large.
        momentum: share of the last step that is taken again, in [0, 1].
        std: deviation of the starts; ``None`` is ``1 / sqrt(latent)``, the paper's, not the 1 that
            the generator was trained with.
        tolerance: share of the error, in [0, 1].

    Raises:
        ValueError: numbers outside of what is stated above, or absurdly large sizes.
    """

    kind: ClassVar[str] = "projection"

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        latent: int = 128,
        width: int = 64,
        steps: int = 200,
        restarts: int = 10,
        lr: float = 10.0,
        momentum: float = 0.7,
        std: float | None = None,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        self.generator = Generator(shape=shape, latent=latent, width=width)
        self.steps, self.restarts = whole("steps", steps), whole("restarts", restarts)
        checks.in_range("lr", lr, 0)
        checks.in_range("momentum", momentum, 0, 1)
        checks.in_range("tolerance", tolerance, 0, 1)
        if std is not None:
            checks.in_range("std", std, 0)
        self.lr, self.momentum, self.tolerance = float(lr), float(momentum), float(tolerance)
        self.std = 1 / math.sqrt(latent) if std is None else float(std)
        self.fields: dict[str, Any] = {
            **self.generator.fields,
            "steps": steps,
            "restarts": restarts,
            "lr": self.lr,
            "momentum": self.momentum,
            "std": std,
            "tolerance": self.tolerance,
        }
        self._keys: Tensor | None = None

    def reseed(self, keys: Tensor | None) -> None:
        """Let the starts that follow depend on ``keys``, ``(N,)`` int64, alone."""
        self._keys = keys

    def surrogate(self, x: Tensor) -> Tensor:
        """The identity, whose gradient stands in for that of the search."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to the nearest ones of the generator; no gradient."""
        return self.reconstruct(x).images

    def reconstruct(self, x: Tensor) -> Reconstruction:
        """Project images ``(N, C, H, W)``; the errors tell how far they were."""
        x, z = x.detach(), self._starts(x)
        size = max(1, ROWS // self.restarts)
        parts = [
            self._nearest(own, starts)
            for own, starts in zip(x.split(size), z.split(size), strict=True)
        ]
        return Reconstruction(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def unrolled(self, x: Tensor) -> Tensor:
        """The same images with their true gradient, that through all steps of the search.

        ``tolerance`` is left aside, and the choice among the starts is held. The graph of all
        steps of all starts is kept: for few steps and few images.
        """
        count, many = len(x), self.restarts
        with torch.enable_grad():
            wanted = x.repeat_interleave(many, dim=0)
            z = self._starts(x).flatten(0, 1).requires_grad_()
            velocity = torch.zeros_like(z)
            for step in range(self.steps):
                z, velocity, _ = self._step(wanted, z, velocity, step, differentiable=True)
            made = self.generator(z)
            best = squared(made, wanted).view(count, many).argmin(dim=1)
            chosen: Tensor = made[torch.arange(count, device=x.device) * many + best]
            return chosen

    def _starts(self, x: Tensor) -> Tensor:
        """``(N, restarts, latent)``; start r of an image is the same however many there are."""
        latent = self.generator.fields["latent"]
        if self._keys is None:
            noise = torch.randn(len(x), self.restarts, latent, device=x.device)
        else:
            keys = self._keys.repeat_interleave(self.restarts)
            number = torch.arange(self.restarts, device=keys.device).repeat(len(x))
            noise = hashed_normal(keys, number, (latent,)).view(len(x), self.restarts, latent)
        return self.std * noise.to(x)

    def _nearest(self, x: Tensor, z: Tensor) -> Reconstruction:
        """Search from ``z``, ``(N, restarts, latent)``, and choose."""
        wanted = x.repeat_interleave(self.restarts, dim=0)
        found, passes = self._descended(wanted, z.flatten(0, 1))
        with torch.no_grad():
            made = self.generator(found)
            error, best = squared(made, wanted).view(len(x), self.restarts).min(dim=1)
            rows = torch.arange(len(x), device=x.device) * self.restarts + best
            return Reconstruction(made[rows], error, passes.view(len(x), -1).sum(dim=1))

    def _descended(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Where each row of ``z`` ends and the steps that it took; rows leave when they stand."""
        found, passes = z.clone(), torch.full((len(z),), self.steps, device=z.device)
        rows = torch.arange(len(z), device=z.device)
        velocity = torch.zeros_like(z)
        before = torch.full((len(z),), math.inf, device=z.device, dtype=z.dtype)
        for step in range(self.steps):
            z, velocity, error = self._step(x, z, velocity, step)
            if not self.tolerance or (step + 1) % WINDOW:
                continue
            stands = error >= (1 - self.tolerance) * before
            before = error
            if stands.any():
                found[rows[stands]], passes[rows[stands]] = z[stands], step + 1
                x, z, velocity, before, rows = (
                    part[~stands] for part in (x, z, velocity, before, rows)
                )
                if not len(rows):
                    break
        found[rows] = z
        return found, passes

    def _step(
        self, x: Tensor, z: Tensor, velocity: Tensor, step: int, *, differentiable: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next point and velocity of each row, and its error before the step."""
        with torch.enable_grad():
            at = z if differentiable else z.detach().requires_grad_()
            error = squared(self.generator(at), x)
            (gradient,) = torch.autograd.grad(error.sum(), at, create_graph=differentiable)
        velocity = self.momentum * velocity + gradient
        rate = self.lr * (1.0 if step < math.ceil(0.8 * self.steps) else 0.1)
        return z - rate * velocity, velocity, error.detach()


def squared(made: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of each image, ``(N,)``."""
    return (made - x).square().flatten(1).mean(dim=1)
