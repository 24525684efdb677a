"""MagNet: an auto-encoder that has seen clean images only, to reform and to reject."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.oracle import DRAWS
from bezoar.classifier import device_of, predict, random_modules
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.detection import alarmed
from bezoar.fit import Judgement, Progress, Supervised, fit, silent
from bezoar.guards.protocol import Guard
from bezoar.models import MagNet as Network
from bezoar.models import Reformer
from bezoar.seeds import Noise, derive
from bezoar.snapshots import Snapshot, Tree


@dataclass(frozen=True, kw_only=True)
class MagNet(Guard):
    r"""Train an auto-encoder on noisy clean images; classify what it makes, reject what it changes.

    .. math::
        \min_\phi\; \mathrm{E}\,\tfrac1d\bigl\lVert A_\phi(\mathrm{clip}(x + \sigma n)) - x
        \bigr\rVert_2^2, \quad n \sim N(0, I); \qquad
        \text{reject } x \text{ where } \tfrac1d \lVert x - A_\phi(x) \rVert_p^p > \tau

    No attack is seen. The classifier sees :math:`A_\phi(x)`, and stays as it is. The threshold is
    the lowest that rejects at most a share ``fpr`` of the clean validation images; see
    ``models.magnet``. Paper: arXiv:1705.09064, sections 4 and 5.

    The epoch that is kept is the one of the least squared error on validation.

    Cost: an epoch is one pass each way through the auto-encoder an image, and one through both for
    the validation images; afterwards an image costs a pass through both, and one through the
    auto-encoder for its score.

    Args:
        sigma: deviation of the noise in training, in pixel units, at least 0.
        p: of the norm of the score, 1 or 2.
        fpr: share of the clean images that may be rejected, in [0, 1].
        width: maps of the auto-encoder.
        epochs: budget.
        batch: images a step.
        lr: learning rate of Adam.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    sigma: float = 0.1
    p: int = 1
    fpr: float = 0.05
    width: int = 3
    epochs: int = 100
    batch: int = 256
    lr: float = 1e-3
    images: int = 0

    def __post_init__(self) -> None:
        checks.in_range("sigma", self.sigma, 0)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("fpr", self.fpr, 0, 1)
        if self.p not in (1, 2):
            raise ValueError(f"p={self.p!r}: expected 1 or 2")
        for name in ("width", "epochs", "batch"):
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
        learning = Denoising(self, classifier, evidence, seed)
        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=learning.judgement,
            snapshot=snapshot,
            on_step=on_step,
        )
        whole = learning.whole.eval()
        alarmed(whole, evidence.validation.at_most(self.images), self.fpr, 1, learning.meter)
        return Defended(whole, log, learning.meter)


class Denoising:
    """The training behind ``MagNet``: only the auto-encoder learns, and it sees no class."""

    model: nn.Module

    def __init__(self, guard: MagNet, classifier: nn.Module, evidence: Evidence, seed: int) -> None:
        self.meter, self._guard, self._seed, self._epoch = Meter(), guard, seed, 0
        self._images = evidence.train
        self._validation = evidence.validation.at_most(guard.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init", "magnet"))
            reformer = Reformer(shape=evidence.train.shape, width=guard.width)
        self.model = reformer.to(device_of(classifier))
        network = deepcopy(classifier).eval().requires_grad_(False)
        self.whole = Network(reformer=reformer, network=network, p=guard.p)
        self.whole.to(device_of(classifier))
        self._learning = Supervised(
            reformer, self._images, loss=self._loss, lr=guard.lr, meter=self.meter
        )

    def begin(self, epoch: int) -> int:
        self._epoch = epoch
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        return self._learning.step(rows, position)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        epochs = np.full(len(rows), self._epoch)
        noise = Noise(self._seed, "magnet", self._images.index[rows.numpy()], epochs)
        drawn = noise.normal(x.shape[1:]).to(x)
        self.meter.forward += len(x)
        self.meter.backward += len(x)
        return F.mse_loss(model((x + self._guard.sigma * drawn).clamp(0, 1)), x)

    def judgement(self, epoch: int) -> Judgement:
        """Accuracy through the auto-encoder, and its mean squared error, on clean images."""
        x, y = self._validation.batch(slice(None))
        draws = DRAWS if random_modules(self.whole) else 1
        clean = (predict(self.whole, x, draws=draws).argmax(dim=1) == y).double().mean().item()
        error = (predict(self.model, x) - x).square().mean().item()
        self.meter.forward += (draws + 1) * len(x)
        return Judgement({"clean": clean, "error": error}, score=-error)

    def state_dict(self) -> Tree:
        return {"learning": self._learning.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._epoch = state["epoch"]
