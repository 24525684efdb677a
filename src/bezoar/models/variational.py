"""An auto-encoder whose code is a distribution (Kingma and Welling, arXiv:1312.6114)."""

from typing import Any, ClassVar

from torch import Tensor, nn

from bezoar.models.autoencoder import CodeNoise, borders, decoder, encoder, inner
from bezoar.models.fields import Shape, checked, whole


class VariationalAutoencoder(nn.Module):
    r"""Images to a normal distribution of codes, a draw of it, and back to images.

    .. math::
        \hat x = D(z), \qquad z = \mu(x) + s(x) \odot n, \qquad n \sim N(0, I)

    The layers are those of ``Autoencoder``; the last one of the encoder gives :math:`\mu` and
    :math:`\log s^2`. The noise is drawn in training and afterwards, and declared (``CodeNoise``),
    so the attacks average over it.

    Args:
        shape: channels, height and width of an image.
        code: numbers in the code.

    Raises:
        ValueError: sizes below 1 or absurdly large.
    """

    kind: ClassVar[str] = "variational-autoencoder"

    def __init__(self, *, shape: Shape = (1, 32, 32), code: int = 10) -> None:
        super().__init__()
        sides = checked(shape, 2, None, None)["shape"]
        self.fields: dict[str, Any] = {"shape": sides, "code": whole("code", code)}
        inside = inner(shape)
        self.enlarge, self.cut = borders(shape)
        self.encoder = encoder(sides[0], inside, 2 * code)
        self.decoder = decoder(sides[0], inside, code)
        self.noise = CodeNoise(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape, in (0, 1)."""
        made, _ = self.drawn(x)
        return made

    def drawn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The images made from one draw, and how far their codes are from N(0, I).

        Returns:
            made: ``(N, C, H, W)`` in (0, 1).
            divergence: of Kullback and Leibler, in nats, ``(N,)``, at least 0:
                :math:`\tfrac12 \sum_j (\mu_j^2 + s_j^2 - 1 - \log s_j^2)`.
        """
        mean, log_variance = self.encoder(self.enlarge(x)).chunk(2, dim=1)
        deviation = (log_variance / 2).exp()
        unit = self.noise(mean.new_zeros(mean.shape))
        made: Tensor = self.decoder(mean + deviation * unit)
        divergence = (mean**2 + deviation**2 - 1 - log_variance).sum(dim=1) / 2
        return self.cut(made), divergence
