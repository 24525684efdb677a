"""The class-conditional variational auto-encoder that purifies images (arXiv:1903.00585)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.models.autoencoder import CodeNoise
from bezoar.models.fields import Shape, checked, whole

UNITS = 512  # of the decoder's first layer
# Temperature of the soft choice over the deviation of the distances. On three guards of digits, PGD
# fooled the most with 0.3, of 0.1, 0.3 and 1, and never fewer than along the chosen branch.
SOFTNESS = 0.3


class ConditionalVAE(nn.Module):
    r"""Reconstruct an image once under every class and give the closest reconstruction back.

    .. math::
        \hat x_y = D(z_y, y), \quad z_y = \mu(x, y) + s(x, y)\,\sigma n_y, \quad n_y \sim N(0, I),
        \qquad \hat y = \arg\min_y \tfrac1{\sqrt d}\lVert x - \hat x_y\rVert_2

    Encoder: three convolutions 7x7 with dilation 2 that keep the size, two linear layers on their
    maps and the class, and two heads, for the mean and, by softplus, for the deviation. Decoder: a
    linear layer of 512 units on the code and the class, a transposed convolution that makes maps of
    a quarter of the sides, two of 7x7 with stride 2, one of 3x3, a sigmoid. ReLU between. At
    1x28x28 these are the layers of the paper. Sides that are no multiple of 4 are padded with black
    and cut again.

    The choice of a class is piecewise constant: the exact gradient is that of the chosen branch,
    and says nothing of how to tip the choice. So a ``surrogate`` with a soft choice is declared,
    whose gradient the attacks use. The noise is declared too (``CodeNoise``), one draw an image and
    class, so the attacks average over it.

    Cost of a pass: the convolutions of the encoder once, what depends on the class once a class
    without gradients, and once more for the class that is chosen. The surrogate has gradients
    through all classes.

    Args:
        shape: channels, height and width of an image.
        classes: under which an image is reconstructed.
        latent: numbers in the code.
        width: maps of the convolutions.
        hidden: units of the two linear layers of the encoder.
        sigma: factor on the noise when purifying; 0 makes the purifier deterministic. In training
            it is 1.

    Raises:
        ValueError: sizes below 1 or absurdly large, or a negative sigma.
    """

    kind: ClassVar[str] = "puvae"

    def __init__(
        self,
        *,
        shape: Shape = (1, 28, 28),
        classes: int = 10,
        latent: int = 32,
        width: int = 32,
        hidden: int = 1024,
        sigma: float = 0.1,
    ) -> None:
        super().__init__()
        sides = checked(shape, classes, None, None)["shape"]
        whole("latent", latent)
        whole("width", width)
        whole("hidden", hidden)
        checks.in_range("sigma", sigma, 0)
        self.fields: dict[str, Any] = {
            "shape": sides,
            "classes": classes,
            "latent": latent,
            "width": width,
            "hidden": hidden,
            "sigma": float(sigma),
        }
        channels, *image = sides
        rows, columns = quarter = [-(-side // 4) for side in image]
        down, right = (4 * part - side for part, side in zip(quarter, image, strict=True))
        self._padding = (right // 2, right - right // 2, down // 2, down - down // 2)
        self._flat = width * 16 * rows * columns
        self.maps = nn.Sequential(
            nn.Conv2d(channels, width, 7, padding=6, dilation=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 7, padding=6, dilation=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 7, padding=6, dilation=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.first = nn.Linear(self._flat + classes, hidden)
        self.second = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, latent)
        self.deviation = nn.Sequential(nn.Linear(hidden, latent), nn.Softplus())
        self.decoder = nn.Sequential(
            nn.Linear(latent + classes, UNITS),
            nn.ReLU(),
            nn.Unflatten(1, (UNITS, 1, 1)),
            nn.ConvTranspose2d(UNITS, width, (rows, columns)),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 7, stride=2, padding=3, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 7, stride=2, padding=3, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        self.noise = CodeNoise(sigma) if sigma else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape, in (0, 1)."""
        return self.project(x)[0]

    def surrogate(self, x: Tensor) -> Tensor:
        r"""The reconstructions mixed by how close they are, for gradients through the choice.

        .. math::
            \tilde x = \sum_y w_y \hat x_y, \qquad w = \mathrm{softmax}(-d / \tau)

        with d the distances and tau a share of their deviation, so that no image is so far from the
        border between two classes that the weights are flat.
        """
        made, distances = self.candidates(x)
        scale = SOFTNESS * distances.detach().std(dim=1, keepdim=True).clamp_min(1e-12)
        weights = (-distances / scale).softmax(dim=1)
        return (weights[:, :, None, None, None] * made).sum(dim=1)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The closest reconstructions, like ``x``, and their classes ``(N,)`` int64.

        The class is a prediction of its own: where the classifier does not agree with it, the
        image is suspicious.
        """
        seen, noise = self._seen(x), self._noise(x)
        with torch.no_grad():
            chosen = self._scanned(x, seen, noise)[1].argmin(dim=1, keepdim=True)
        mean, deviation = self._posterior(seen, chosen)
        code = mean + deviation * noise.take_along_dim(chosen[:, :, None], dim=1)
        return self.decode(code, chosen).squeeze(1), chosen.squeeze(1)

    def candidates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions under every class, ``(N, K, C, H, W)``, and how far each is from ``x``.

        The distances ``(N, K)`` are root mean squares over the pixels.
        """
        return self._scanned(x, self._seen(x), self._noise(x))

    def posterior(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the codes of images under classes ``(N, M)``: ``(N, M, Z)``."""
        return self._posterior(self._seen(x), y)

    def decode(self, code: Tensor, y: Tensor) -> Tensor:
        """Codes ``(N, M, Z)`` under classes ``(N, M)`` to images ``(N, M, C, H, W)`` in (0, 1)."""
        label = F.one_hot(y, self.fields["classes"]).to(code)
        made: Tensor = self.decoder(torch.cat([code, label], dim=2).flatten(0, 1))
        images: Tensor = F.pad(made, [-side for side in self._padding]).unflatten(0, y.shape)
        return images

    def _seen(self, x: Tensor) -> Tensor:
        """What the first linear layer makes of images, ``(N, hidden)``: no class is in it yet."""
        maps = self.maps(F.pad(x, self._padding))
        return F.linear(maps, self.first.weight[:, : self._flat], self.first.bias)

    def _posterior(self, seen: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.first.weight[:, self._flat :].T  # what a one-hot class adds to the layer
        units = self.second(seen[:, None] + labels[y])
        return self.mean(units), self.deviation(units)

    def _noise(self, x: Tensor) -> Tensor:
        shape = (len(x), self.fields["classes"], self.fields["latent"])
        noise: Tensor = self.noise(x.new_zeros(shape))
        return noise

    def _scanned(self, x: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        classes = torch.arange(self.fields["classes"], device=x.device)
        y = classes.expand(len(x), -1)
        mean, deviation = self._posterior(seen, y)
        made = self.decode(mean + deviation * noise, y)
        return made, (made - x[:, None]).square().mean(dim=(2, 3, 4)).sqrt()
