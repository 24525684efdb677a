"""Admix: gradients of mixtures with images of other classes."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.losses import cross_entropy
from bezoar.attacks.mi_fgsm import Momentum, at_rest, moved
from bezoar.attacks.protocol import Attack, Learnt, Oracle, kept
from bezoar.data.imageset import ImageSet
from bezoar.seeds import Noise, generator, hashed


@dataclass(frozen=True, kw_only=True)
class Admix(Attack):
    r"""MI-FGSM on the mean gradient of scale copies of mixtures.

    .. math::
        \nabla = \frac{1}{m_1 m_2} \sum_{j=1}^{m_2} \sum_{i=0}^{m_1-1}
                 \nabla_x L\bigl(f((x_t + \eta x'_j) / 2^i), y\bigr)

    with :math:`x'_j` images of other classes, drawn anew in every step from those that ``fit``
    keeps. Paper: arXiv:2102.00436, algorithm 1. Cost: ``copies * samples * steps`` forward and
    backward passes an image, and one forward pass to judge the last point.

    Args:
        eps: radius of the Linf ball, in pixel units of [0, 1].
        steps: number of steps, each of length eps / steps.
        decay: the factor mu of the momentum; 0 forgets past gradients.
        eta: the share of the other image.
        copies: the number m1 of scale copies, the mixture itself among them.
        samples: the number m2 of other images a step.
        pool: how many images ``fit`` keeps.
        learnt: they and their classes, once fitted.
    """

    eps: float = 0.1
    steps: int = 10
    decay: float = 1.0
    eta: float = 0.2
    copies: int = 5
    samples: int = 3
    pool: int = 200
    learnt: Learnt | None = None
    norm: str = field(default="linf", init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("decay", self.decay, 0)
        checks.in_range("eta", self.eta, 0)
        checks.at_least("copies", self.copies, 1)
        checks.at_least("samples", self.samples, 1)
        checks.at_least("pool", self.pool, 2)

    def fit(self, classifier: nn.Module, images: ImageSet, *, seed: int) -> "Admix":
        """Keep some images, in order of their classes; see ``protocol.Fitted``.

        Raises:
            ValueError: all that would be kept are of one class.
        """
        chosen = torch.randperm(len(images), generator=generator(seed, "admix"))[: self.pool]
        x, y = images.batch(chosen[images.labels[chosen].argsort(stable=True)])
        if y[0] == y[-1]:
            found = f"{len(y)} images of {images.name}, all of class {int(y[0])}"
            raise ValueError(f"{found}: expected two classes or more; raise pool={self.pool}")
        return replace(self, learnt=Learnt(images.name, {"images": x, "labels": y}))

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Momentum:
        kept(self, "images", x)  # refused here, before any pass
        return at_rest(x, noise)

    def step(self, state: Momentum, oracle: Oracle) -> Momentum:
        images = kept(self, "images", state.x)
        gradient = torch.zeros_like(state.x)
        for j in range(self.samples):
            draw = hashed(state.key, state.age * self.samples + j, (1,)).squeeze(1)
            mixed = state.x_adv + self.eta * images[self._others(draw, oracle.goal.aim)]
            for i in range(self.copies):
                _, of_copy = oracle.gradient(mixed / 2**i, cross_entropy)
                gradient += of_copy / 2**i / (self.copies * self.samples)
        return moved(state, gradient, self.eps, self.steps, self.decay)

    def best(self, state: Momentum) -> Tensor:
        return state.x_adv

    def _others(self, draw: Tensor, aim: Tensor) -> Tensor:
        """Rows of kept images that are not of class ``aim``, one for each of U[0, 1), ``(N,)``."""
        assert self.learnt is not None
        labels = self.learnt.tensors["labels"].to(aim.device)
        first = torch.searchsorted(labels, aim)  # the class lies together: pass over it
        own = torch.searchsorted(labels, aim, right=True) - first
        row = (draw * (len(labels) - own)).long()
        return torch.where(row < first, row, row + own)
