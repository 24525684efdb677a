"""One perturbation for all images, learnt beforehand by stochastic gradient steps."""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.protocol import Attack, Ball, Learnt, Oracle, kept, require_away
from bezoar.classifier import device_of, prepare
from bezoar.data.imageset import ImageSet
from bezoar.geometry import ASCENTS, linf_radius, shorten_l2, shorten_linf
from bezoar.seeds import Noise, generator

SHORTEN = {"linf": shorten_linf, "l2": shorten_l2}


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    r"""A universal perturbation: one change that is added to every image.

    ``fit`` goes through other images in batches B,

    .. math::
        x' = \mathrm{clip}_{[0, 1]}(x + \delta), \qquad
        \delta \leftarrow \Pi_\epsilon\Bigl(\delta + \alpha\, d\bigl(\nabla_\delta
        \sum_{(x, y) \in B} \min\{L(f(x'), y), \beta\}\bigr)\Bigr), \qquad \delta_0 = 0

    with d the sign (Linf) or the direction (L2). Without the bound beta one image whose loss has no
    end would drown all others. The idea is that of arXiv:1610.08401, the method that of
    arXiv:1811.11304, algorithm 1. Cost: ``epochs`` forward and backward passes an image that it is
    fitted on; then one forward pass an image that it is applied to.

    Args:
        eps: radius of the ball, in pixel units of [0, 1].
        norm: ``linf`` or ``l2``.
        epochs: how often ``fit`` goes through its images.
        batch: images a step of ``fit``.
        step_size: the length alpha, in pixel units; ``None`` is 2.5 eps over the number of steps.
        clip: the bound beta of an image's loss.
        learnt: the perturbation, once fitted.
    """

    eps: float = 0.1
    norm: str = "linf"
    epochs: int = 10
    batch: int = 128
    step_size: float | None = None
    clip: float = 9.0
    learnt: Learnt | None = None
    steps: int = field(default=0, init=False, repr=False)
    restarts: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.in_range("eps", self.eps, 0)
        checks.known("norm", self.norm, ASCENTS)
        checks.at_least("epochs", self.epochs, 1)
        checks.at_least("batch", self.batch, 1)
        checks.in_range("clip", self.clip, 0)
        if self.step_size is not None:
            checks.in_range("step_size", self.step_size, 0)

    @property
    def _radius(self) -> float:
        return linf_radius(self.eps) if self.norm == "linf" else self.eps

    def fit(self, classifier: nn.Module, images: ImageSet, *, seed: int) -> "Universal":
        """Learn the perturbation; see ``protocol.Fitted``."""
        model = prepare(classifier).float()
        device = device_of(model)
        ascent, _ = ASCENTS[self.norm]
        shorten = SHORTEN[self.norm]
        count = self.epochs * -(-len(images) // self.batch)
        alpha = 2.5 * self._radius / count if self.step_size is None else self.step_size
        radius = torch.full((1, 1, 1, 1), self._radius, device=device)
        change = torch.zeros(1, *images.shape, device=device)
        for epoch in range(self.epochs):
            order = torch.randperm(len(images), generator=generator(seed, "universal", epoch))
            for rows in order.split(self.batch):
                x, y = (part.to(device) for part in images.batch(rows))
                change.requires_grad_()
                with torch.enable_grad():
                    losses = F.cross_entropy(model((x + change).clamp(0, 1)), y, reduction="none")
                    (gradient,) = torch.autograd.grad(losses.clamp(max=self.clip).sum(), change)
                change = shorten(change.detach() + alpha * ascent(gradient), radius)
        return replace(self, learnt=Learnt(images.name, {"change": change.cpu()}))

    def start(self, x: Tensor, oracle: Oracle, noise: Noise) -> Ball:
        require_away(oracle.goal)
        _, project = ASCENTS[self.norm]
        return Ball(project(x + kept(self, "change", x), x, self._radius), x)

    def step(self, state: Ball, oracle: Oracle) -> Ball:
        return state  # never called: steps is 0

    def best(self, state: Ball) -> Tensor:
        return state.x_adv
