"""PuVAE: a class-conditional variational auto-encoder, trained on clean images alone."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, predict
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.fit import Judgement, Progress, Supervised, fit, silent
from bezoar.guards.protocol import Guard
from bezoar.models import ConditionalVAE, Purified
from bezoar.seeds import derive
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class PuVAE(Guard):
    r"""Project every image onto what a generative model knows of the classes.

    .. math::
        \min_\phi\; \mathrm{E}\bigl[\lambda_{rc}\, \mathrm{BCE}(\hat x, x)
        + \lambda_{kl}\, \mathrm{KL}\bigl(N(\mu, s^2) \,\|\, N(0, I)\bigr)
        + \lambda_{ce}\, L\bigl(f(\hat x), y\bigr)\bigr], \qquad
        \hat x = D(\mu + s n, y),\; n \sim N(0, I)

    with mean and deviation those of ``models.ConditionalVAE`` for the clean image x and its true
    class y, the binary cross-entropy summed over the pixels, and f the classifier, which stays as
    it is. Afterwards an image is reconstructed under every class, and the classifier sees the
    closest reconstruction. No adversarial image is used. Paper: arXiv:1903.00585.

    The epoch that is kept is the best on validation, by the accuracy on clean images through the
    guard.

    Cost: an epoch is one pass each way through the guard and, with ``ce``, the classifier an image;
    and on each validation image one forward pass a class.

    Args:
        latent: numbers in the code.
        width: maps of the convolutions.
        hidden: units of the two linear layers of the encoder.
        sigma: factor on the noise when purifying, at least 0; in training it is 1.
        rc: weight of the reconstruction, at least 0.
        kl: weight of the divergence from N(0, I), at least 0.
        ce: weight of the classifier's cross-entropy, at least 0.
        epochs: budget.
        batch: images a step.
        lr: learning rate of Adam.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    latent: int = 32
    width: int = 32
    hidden: int = 1024
    sigma: float = 0.1
    rc: float = 0.01
    kl: float = 0.1
    ce: float = 10.0
    epochs: int = 20
    batch: int = 64
    lr: float = 1e-3
    images: int = 1000

    def __post_init__(self) -> None:
        for name in ("sigma", "rc", "kl", "ce", "lr"):
            checks.in_range(name, getattr(self, name), 0)
        for name in ("latent", "width", "hidden", "epochs", "batch"):
            checks.at_least(name, getattr(self, name), 1)
        checks.at_least("images", self.images, 0)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        meter, train = Meter(), evidence.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init", "puvae"))
            purifier = ConditionalVAE(
                shape=train.shape,
                classes=len(train.classes),
                latent=self.latent,
                width=self.width,
                hidden=self.hidden,
                sigma=self.sigma,
            )
        network = deepcopy(classifier).eval().requires_grad_(False)
        guarded = Purified(purifier=purifier.to(device_of(classifier)), network=network)
        x_seen, y_seen = evidence.validation.at_most(self.images).batch(slice(None))

        def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            meter.forward += len(x)
            meter.backward += len(x)
            return self.loss(purifier, network, x, y)

        def judgement(epoch: int) -> Judgement:
            right = predict(guarded, x_seen).argmax(dim=1) == y_seen
            meter.forward += len(x_seen) * len(train.classes)
            clean = right.double().mean().item()
            return Judgement({"clean": clean}, score=clean)

        log = fit(
            Supervised(purifier, train, loss=loss, lr=self.lr, meter=meter),
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=judgement,
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(guarded.eval(), log, meter)

    def loss(self, purifier: ConditionalVAE, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What is minimised: images ``(N, C, H, W)`` and their classes ``(N,)`` to a scalar."""
        mean, deviation = purifier.posterior(x, y[:, None])
        code = mean + deviation * torch.randn_like(mean)
        made = purifier.decode(code, y[:, None]).squeeze(1)
        rc = F.binary_cross_entropy(made, x, reduction="sum") / len(x)
        loss = self.rc * rc + self.kl * divergence(mean, deviation).sum() / len(x)
        if self.ce:
            loss = loss + self.ce * F.cross_entropy(network(made), y)
        return loss


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL of N(mean, deviation^2) from N(0, I) in nats: ``(..., Z)`` to ``(...)``."""
    return (mean.square() + deviation.square() - 1).div(2).sub(deviation.log()).sum(dim=-1)
