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
from bezoar.classifier import device_of, frozen, predict, prepare
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence
from bezoar.fit import SCHEDULES, Judgement, Progress, Supervised, fit, silent
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

    Cost: an epoch is one pass each way through the guard an image, with ``lam`` one each way
    through the classifier, and with ``through`` that of ``inner`` on the share of images that it is
    made for. Without ``through`` what is attacked stays as it is, so each image is attacked once,
    in the first epoch that wants it attacked, and kept: that takes the memory of the images.

    Args:
        inner: the attacks that are to be undone; each is made for an equal part of a batch.
        through: whether ``inner`` attacks the classifier behind the guard, or the classifier alone.
        clean: share of the images that stay clean, in [0, 1].
        lam: weight of the classifier's cross-entropy beside the squared error, at least 0.
        code: numbers in the code.
        sigma: deviation of the noise on the code, in training and afterwards.
        skips: whether maps of the encoder go past the code, which keeps more of clean images.
        epochs: budget.
        batch: images a step.
        lr: learning rate of Adam.
        schedule: of the learning rate, a name in ``fit.SCHEDULES``.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    inner: tuple[Attack, ...] = field(default_factory=lambda: (FGSM(eps=0.6),))
    through: bool = False
    clean: float = 0.5
    lam: float = 0.0
    code: int = 10
    sigma: float = 0.0
    skips: bool = False
    epochs: int = 15
    batch: int = 64
    lr: float = 1e-3
    schedule: str = "constant"
    images: int = 1000

    def __post_init__(self) -> None:
        if not self.inner:
            raise ValueError("inner=(): expected at least one attack to be undone")
        checks.in_range("clean", self.clean, 0, 1)
        checks.in_range("lam", self.lam, 0)
        checks.in_range("sigma", self.sigma, 0)
        checks.in_range("lr", self.lr, 0)
        checks.known("schedule", self.schedule, SCHEDULES)
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init", "cae"))
            made = Autoencoder(
                shape=evidence.train.shape, code=self.code, sigma=self.sigma, skips=self.skips
            )
        learning = Purification(self, made.to(device_of(classifier)), classifier, evidence, seed)
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
    """The training behind ``CAE``: only the purifier learns.

    Args:
        guard: the settings.
        purifier: images to images; it learns in place.
        classifier: images to logits; not changed.
        evidence: what is learnt from, and what the epoch is chosen on.
        seed: names all randomness.
        purify: the purifier in training: its images, and what is added to the loss. Without it
            the purifier as it is, and nothing.
    """

    model: nn.Module

    def __init__(
        self,
        guard: CAE,
        purifier: nn.Module,
        classifier: nn.Module,
        evidence: Evidence,
        seed: int,
        *,
        purify: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._purify = purify or (lambda seen: (purifier(seen), seen.new_zeros(())))
        self.meter, self._guard, self._seed, self._epoch = Meter(), guard, seed, 0
        self._images = evidence.train
        self._validation = evidence.validation.at_most(guard.images)
        network = deepcopy(classifier).eval().requires_grad_(False)
        self.model = purifier
        self.whole = Purified(purifier=purifier, network=network)
        probe, _ = self._validation.batch(slice(8))
        self._network = prepare(network, probe)  # the same function in fewer operations
        self._learning = Supervised(
            purifier,
            self._images,
            loss=self._loss,
            lr=guard.lr,
            schedule=SCHEDULES[guard.schedule],
            meter=self.meter,
        )
        self._train, self._held = _Kept(self._images), _Kept(self._validation)

    def begin(self, epoch: int) -> int:
        self._epoch = epoch
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        return self._learning.step(rows, position)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        # The first so many of a batch stay clean; their order is drawn anew each epoch.
        kept = round(self._guard.clean * len(x))
        seen = x
        if kept < len(x):
            noise = self._noise("cae", self._images, rows[kept:])
            made = self._attacked(x[kept:], y[kept:], rows[kept:], noise, self._train)
            seen = torch.cat([x[:kept], made])
        made, penalty = self._purify(seen)
        self.meter.forward += len(x)
        self.meter.backward += len(x)
        loss = F.mse_loss(made, x) + penalty
        if self._guard.lam:
            loss = loss + self._guard.lam * F.cross_entropy(self._network(made), y)
        return loss

    def _noise(self, stream: str, images: ImageSet, rows: Tensor) -> Noise:
        """Fresh in every epoch where the guard, and so the attack, is another one by then."""
        draw = self._epoch if self._guard.through else 0
        return Noise(self._seed, stream, images.index[rows.numpy()], np.full(len(rows), draw))

    def _attacked(self, x: Tensor, y: Tensor, rows: Tensor, noise: Noise, kept: "_Kept") -> Tensor:
        """What the inner attacks make of some images, each of an equal part of them."""
        if self._guard.through:
            return self._attack(Purified(purifier=self.model, network=self._network), x, y, noise)
        todo = kept.lacking(rows)
        if len(todo):
            part = noise.take(todo.numpy(), noise.draws[todo.numpy()])
            kept.add(rows[todo], self._attack(self._network, x[todo], y[todo], part))
        return kept.of(rows).to(x)

    def _attack(self, target: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        found = torch.empty_like(x)
        count = len(self._guard.inner)
        with frozen(target):
            for k, inner in enumerate(self._guard.inner):
                own = torch.arange(k, len(x), count)
                if not len(own):
                    continue
                part = noise.take(own.numpy(), noise.draws[own.numpy()])
                done = perturb(inner, target, x[own], Untargeted(y[own]), part)
                found[own] = done.x_adv.to(x)
                self.meter.forward += int(done.forward.sum())
                self.meter.backward += int(done.backward.sum())
        return found

    def judgement(self, epoch: int) -> Judgement:
        """Accuracy through the guard, on clean images and on those of the inner attack."""
        x, y = self._validation.batch(slice(None))
        rows = torch.arange(len(x))
        noise = self._noise("judge", self._validation, rows)
        x_adv = self._attacked(x, y, rows, noise, self._held)
        clean, robust = (
            (predict(self.whole, images).argmax(dim=1) == y).double().mean().item()
            for images in (x, x_adv)
        )
        self.meter.forward += 2 * len(x)
        return Judgement({"clean": clean, "robust": robust}, score=(clean + robust) / 2)

    def state_dict(self) -> Tree:
        return {
            "learning": self._learning.state_dict(),
            "epoch": self._epoch,
            "train": self._train.state_dict(),
            "held": self._held.state_dict(),
        }

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._epoch = state["epoch"]
        self._train.load_state_dict(state["train"])
        self._held.load_state_dict(state["held"])


class _Kept:
    """Attacked images that were made once, by their rows in the split.

    Args:
        images: the split.
    """

    def __init__(self, images: ImageSet) -> None:
        self._x = torch.zeros(len(images), *images.shape)
        self._there = torch.zeros(len(images), dtype=torch.bool)

    def lacking(self, rows: Tensor) -> Tensor:
        """The positions in ``rows`` of those that there is none of yet."""
        return (~self._there[rows]).nonzero().squeeze(1)

    def add(self, rows: Tensor, x: Tensor) -> None:
        self._x[rows], self._there[rows] = x.cpu(), True

    def of(self, rows: Tensor) -> Tensor:
        return self._x[rows]

    def state_dict(self) -> Tree:
        rows = self._there.nonzero().squeeze(1)
        return {"rows": rows, "x": self._x[rows]}

    def load_state_dict(self, state: Tree) -> None:
        self.add(state["rows"], state["x"])
