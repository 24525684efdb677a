"""BayesCAE: a variational auto-encoder that learns to undo an attack, and knows when it cannot."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks import FGSM, Attack
from bezoar.classifier import device_of
from bezoar.defence import Defended, Evidence
from bezoar.detection import scores
from bezoar.fit import Progress, fit, silent
from bezoar.guards.cae import CAE, Purification
from bezoar.guards.protocol import Guard
from bezoar.models import Uncertain, VariationalAutoencoder
from bezoar.seeds import derive
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class BayesCAE(Guard):
    r"""``CAE`` with a distribution of codes instead of one code, and a detector of doubt.

    .. math::
        \min_\phi\; \mathrm{E}\Bigl[\tfrac1d\lVert A_\phi(\tilde x) - x\rVert_2^2
        + \lambda\, L\bigl(f(A_\phi(\tilde x)), y\bigr)
        + \kappa\, \mathrm{KL}\bigl(q_\phi(z \mid \tilde x) \,\Vert\, N(0, I)\bigr)\Bigr], \qquad
        \tilde x = x \text{ or } \mathrm{inner}(x)

    with A the ``models.VariationalAutoencoder``, of which each pass is one draw. This is the
    Bayesian variant that arXiv:2312.03520 leaves to the future. With lam at 0 it is the evidence
    bound of arXiv:1312.6114 for pixels of deviation :math:`\sqrt{\kappa d / 2}`.

    What comes back is a detector too: its ``score`` is the mutual information of the class and the
    draw, see ``models.Uncertain``, and its ``threshold`` is passed by at most the share ``fpr`` of
    the clean validation images. Its logits ignore that.

    Cost: that of ``CAE``, and ``draws`` passes a validation image.

    Args:
        inner: the attacks that are to be undone; each is made for an equal part of a batch.
        through: whether ``inner`` attacks the classifier behind the guard, or the classifier alone.
        clean: share of the images that stay clean, in [0, 1].
        lam: weight of the classifier's cross-entropy beside the squared error, at least 0.
        kl: weight of the divergence, a sum over the code, at least 0.
        code: numbers in the code.
        epochs: budget.
        batch: images a step.
        lr: learning rate of Adam.
        schedule: of the learning rate, a name in ``fit.SCHEDULES``.
        images: how many validation images are looked at, the first of the split; 0 is all.
        draws: of which the score is made, at least 2.
        fpr: share of clean images that may be rejected, in [0, 1].
    """

    inner: tuple[Attack, ...] = field(default_factory=lambda: (FGSM(eps=0.6),))
    through: bool = False
    clean: float = 0.5
    lam: float = 0.0
    kl: float = 1e-4
    code: int = 10
    epochs: int = 15
    batch: int = 64
    lr: float = 1e-3
    schedule: str = "constant"
    images: int = 1000
    draws: int = 16
    fpr: float = 0.05

    def __post_init__(self) -> None:
        self._plain()  # refuses what is wrong with the settings that both have
        checks.in_range("kl", self.kl, 0)
        checks.at_least("draws", self.draws, 2)
        checks.in_range("fpr", self.fpr, 0, 1)

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
            torch.manual_seed(derive(seed, "init", "bayes-cae"))
            purifier = VariationalAutoencoder(shape=evidence.train.shape, code=self.code)
        purifier.to(device_of(classifier))

        def purify(seen: Tensor) -> tuple[Tensor, Tensor]:
            made, divergence = purifier.drawn(seen)
            return made, self.kl * divergence.mean()

        learning = Purification(self._plain(), purifier, classifier, evidence, seed, purify=purify)
        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=learning.judgement,
            snapshot=snapshot,
            on_step=on_step,
        )
        begun = time.monotonic()
        detector = Uncertain(network=learning.whole, draws=self.draws).to(device_of(classifier))
        x, _ = evidence.validation.at_most(self.images).batch(slice(None))
        # The score draws by itself, the same for every call: one look is all.
        clean = scores(detector.eval(), x)
        detector.threshold.copy_(clean.quantile(1 - self.fpr, interpolation="higher"))
        learning.meter.forward += self.draws * len(x)
        learning.meter.seconds += time.monotonic() - begun
        return Defended(detector, log, learning.meter)

    def _plain(self) -> CAE:
        """The same settings without a distribution; the noise is the code's own."""
        own = {one.name for one in fields(CAE)} - {"sigma", "skips"}
        return CAE(**{name: getattr(self, name) for name in own})
