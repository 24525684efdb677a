"""CAE: a convolutional auto-encoder that learns to undo an attack."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks import FGSM, Attack, Untargeted
from bezoar.attacks.engine import perturb
from bezoar.classifier import frozen, predict
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.fit import Judgement, Progress, Supervised, fit, silent
from bezoar.guards.protocol import Guard
from bezoar.models import Autoencoder, Purified
from bezoar.seeds import Noise, derive
from bezoar.snapshots import Snapshot, Tree


@dataclass(frozen=True, kw_only=True)
class CAE(Guard):
    r"""Train an auto-encoder to give the clean image back, and put it in front of the classifier.

    .. math::
        \min_\phi\; \mathrm{E}\Bigl[\tfrac1d\lVert A_\phi(\tilde x) - x\rVert_2^2
        + \lambda\, L\bigl(f(A_\phi(\tilde x)), y\bigr)\Bigr], \qquad
        \tilde x = x \text{ or } \mathrm{inner}(x)

    with A the ``models.Autoencoder`` and f the classifier, which stays as it is. The paper
    (arXiv:2312.03520) has ``clean=0``, ``lam=0``, noise of ``sigma=1`` on the code, and an attacker
    who knows the classifier alone (``through=False``). One who knows the guard attacks both: with
    ``through=True`` the guard is trained against him, and ``lam`` above 0 lets it give up the
    image for the class.

    The epoch that is kept is the best on validation, by the mean of the accuracy on clean images
    and on those of ``inner``, both through the guard.

    Cost: an epoch is that of ``inner`` on the share of images that it is made for, one pass each
    way through the guard an image, and with ``lam`` one each way through the classifier.

    Args:
        inner: the attack that is to be undone.
        through: whether ``inner`` attacks the classifier behind the guard, or the classifier alone.
        clean: share of the images that stay clean, in [0, 1].
        lam: weight of the classifier's cross-entropy beside the squared error, at least 0.
        code: numbers in the code.
        sigma: deviation of the noise on the code, in training and afterwards.
        epochs: budget.
        batch: images a step.
        lr: learning rate of Adam.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    inner: Attack = field(default_factory=lambda: FGSM(eps=0.6))
    through: bool = False
    clean: float = 0.5
    lam: float = 0.0
    code: int = 10
    sigma: float = 0.0
    epochs: int = 15
    batch: int = 64
    lr: float = 1e-3
    images: int = 1000

    def __post_init__(self) -> None:
        checks.in_range("clean", self.clean, 0, 1)
        checks.in_range("lam", self.lam, 0)
        checks.in_range("sigma", self.sigma, 0)
        checks.in_range("lr", self.lr, 0)
        for name in ("code", "epochs", "batch"):
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
        learning = Purification(self, classifier, evidence, seed)
        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=learning.judgement,
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(learning.whole.eval(), log, learning.meter)


class Purification:
    """The training behind ``CAE``: only the auto-encoder learns."""

    model: nn.Module

    def __init__(self, guard: CAE, classifier: nn.Module, evidence: Evidence, seed: int) -> None:
        self.meter, self._guard, self._seed, self._epoch = Meter(), guard, seed, 0
        self._images = evidence.train
        self._validation = evidence.validation.at_most(guard.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init", "cae"))
            purifier = Autoencoder(shape=evidence.train.shape, code=guard.code, sigma=guard.sigma)
        network = deepcopy(classifier).eval().requires_grad_(False)
        self.model = purifier
        self.whole = Purified(purifier=purifier, network=network)
        self._learning = Supervised(
            purifier, self._images, loss=self._loss, lr=guard.lr, meter=self.meter
        )

    def begin(self, epoch: int) -> int:
        self._epoch = epoch
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        return self._learning.step(rows, position)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        noise = Noise(
            self._seed,
            "cae",
            self._images.index[rows.numpy()],
            np.full(len(rows), self._epoch),
        )
        # The first so many of a batch, whose order is drawn anew each epoch.
        kept = round(self._guard.clean * len(x))
        seen = x.clone()
        if kept < len(x):
            left = np.arange(kept, len(x))
            seen[kept:] = self._attacked(x[kept:], y[kept:], noise.take(left, noise.draws[left]))
        made = model(seen)
        self.meter.forward += len(x)
        self.meter.backward += len(x)
        loss = F.mse_loss(made, x)
        if self._guard.lam:
            loss = loss + self._guard.lam * F.cross_entropy(self.whole.network(made), y)
        return loss

    def _attacked(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        target = self.whole if self._guard.through else self.whole.network
        with frozen(target):
            found = perturb(self._guard.inner, target, x, Untargeted(y), noise)
        self.meter.forward += int(found.forward.sum())
        self.meter.backward += int(found.backward.sum())
        return found.x_adv.to(x)

    def judgement(self, epoch: int) -> Judgement:
        """Accuracy through the guard, on clean images and on those of the inner attack."""
        x, y = self._validation.batch(slice(None))
        index = self._validation.index
        noise = Noise(self._seed, "judge", index, np.full(len(index), epoch + 1))
        x_adv = self._attacked(x, y, noise)
        clean, robust = (
            (predict(self.whole, images).argmax(dim=1) == y).double().mean().item()
            for images in (x, x_adv)
        )
        self.meter.forward += 2 * len(x)
        return Judgement({"clean": clean, "robust": robust}, score=(clean + robust) / 2)

    def state_dict(self) -> Tree:
        return {"learning": self._learning.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._epoch = state["epoch"]
