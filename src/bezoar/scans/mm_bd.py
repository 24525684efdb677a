"""MM-BD: a class that one can be far surer of than of any other, in whatever image."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, reseeded
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.scans.protocol import Finding, ModelScan, comparable
from bezoar.seeds import Noise, derive, generator, subkeys

RESOLUTION = 0.01  # of a margin; where ascents from several starts agree, they do so this well
DRAWS = 9999  # of the null model, for the p-value


@dataclass(frozen=True, kw_only=True)
class MMBD(ModelScan):
    r"""Look for a class whose largest margin over all images is out of line. No data are needed.

    .. math::
        r_c = \max_{x \in [0, 1]^d} \Bigl(f_c(x) - \max_{k \ne c} f_k(x)\Bigr), \qquad
        \text{score} = -\log_{10} \bigl(1 - F(\max_c r_c)^K\bigr)

    with F a gamma distribution of the mean and variance of all margins but the largest; margins
    below 0 count as 0. The ascent takes signed steps from random images; their size falls linearly
    to 0, and the best point on the way is kept. The signs make it blind to the scale of the logits,
    as the score is. Paper: arXiv:2205.06900, sections III and IV.

    F comes from few margins, and without the largest. So of ten classes without a backdoor more
    than 20 % pass the paper's level of 0.05. The p-value of the finding takes that in: it is the
    share of ``DRAWS`` draws of K margins from the gamma distribution whose score is as high.

    Cost: ``classes * starts * steps`` passes each way, and one more forward for each start.

    Args:
        starts: random images that the ascent to each class begins at.
        steps: of the ascent.
        step_size: of the first step, in pixel units of [0, 1].
        rows: images in a pass, at most; it bounds the memory.
        level: of the paper's test; the threshold of the score is :math:`-\log_{10}` of it.
    """

    starts: int = 10
    steps: int = 100
    step_size: float = 0.1
    rows: int = 256
    level: float = 0.05

    def __post_init__(self) -> None:
        for name in ("starts", "steps", "rows"):
            checks.at_least(name, getattr(self, name), 1)
        checks.in_range("step_size", self.step_size, 1e-6, 1)
        checks.in_range("level", self.level, 1e-12, 1)

    @property
    def blind(self) -> bool:
        return True

    def __call__(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        """Look for a backdoor; see ``protocol.ModelScan``."""
        begun, meter = time.monotonic(), Meter()
        rng = generator(seed, "mm-bd", "start")
        starts = torch.rand(self.starts, *images.shape, generator=rng)
        network = comparable(classifier, images, starts, meter)
        # All classes begin at the same images; what sets them apart is the network.
        wanted = torch.arange(len(images.classes)).repeat_interleave(self.starts)
        place = torch.arange(self.starts).repeat(len(images.classes))
        keys = Noise.first(seed, "mm-bd", np.arange(self.starts)).keys()
        best = []
        for part in torch.arange(len(wanted)).split(self.rows):
            ascent = self._ascent(network, starts[place[part]], wanted[part], keys[place[part]])
            for step, margins in enumerate(ascent):
                done = int(part[0]) * (self.steps + 1) + (step + 1) * len(part)
                loss = -float(margins.mean())
                on_step(Progress(1, 1, done, len(wanted) * (self.steps + 1), loss))
            best.append(margins.cpu())
        margins = torch.cat(best).view(-1, self.starts).amax(dim=1)
        meter.forward += len(wanted) * (self.steps + 1)
        meter.backward += len(wanted) * self.steps
        score, p_value = judged(margins.double().numpy(), seed)
        threshold = -math.log10(self.level)
        meter.seconds = time.monotonic() - begun
        return Finding(
            score=score,
            threshold=threshold,
            suspect=int(margins.argmax()) if score > threshold else None,
            p_value=p_value,
            classes=margins,
            cost=meter,
        )

    def _ascent(
        self, network: nn.Module, x: Tensor, wanted: Tensor, keys: Tensor
    ) -> Iterator[Tensor]:
        """Climb from images ``(n, C, H, W)``; yields the largest margins so far, ``(n,)``."""
        device = device_of(network)
        x, wanted, keys = x.to(device), wanted.to(device), keys.to(device)
        best = torch.full((len(x),), -math.inf, device=device)
        for step in range(self.steps):
            with torch.enable_grad(), reseeded(network, subkeys(keys, step)):
                point = x.clone().requires_grad_()
                reached = margins_of(network(point), wanted)
                (slope,) = torch.autograd.grad(reached.sum(), point)
            best = torch.maximum(best, reached.detach())
            size = self.step_size * (1 - step / self.steps)
            x = (x + size * slope.sign()).clamp(0, 1)
            yield best
        with torch.no_grad(), reseeded(network, subkeys(keys, self.steps)):
            yield torch.maximum(best, margins_of(network(x), wanted))


def margins_of(logits: Tensor, wanted: Tensor) -> Tensor:
    """By how much the logit ``(n, K)`` of a class ``(n,)`` exceeds the largest other, ``(n,)``."""
    own = logits.gather(1, wanted[:, None]).squeeze(1)
    return own - logits.scatter(1, wanted[:, None], -math.inf).amax(dim=1)


def judged(margins: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Score and p-value of the margins ``(K,)`` of all classes; see ``MMBD``."""
    (score,), (shape,) = _scores(margins[None])
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "mm-bd", "null")))
    drawn, _ = _scores(rng.gamma(shape, size=(DRAWS, len(margins))))  # scale does not matter
    return float(score), float((1 + (drawn >= score).sum()) / (1 + DRAWS))


def _scores(margins: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score and shape of the gamma distribution, ``(M,)`` each, of ``(M, K)`` margins."""
    from scipy.stats import gamma

    ordered = np.sort(margins.clip(min=0), axis=1)
    others, largest = ordered[:, :-1], ordered[:, -1]
    mean = others.mean(axis=1).clip(min=1e-12)
    spread = np.maximum(others.std(axis=1, ddof=1), RESOLUTION * mean)
    shape = (mean / spread) ** 2
    beyond = gamma.sf(largest, shape, scale=mean / shape)
    # 1 - (1 - beyond)^K, also where beyond is tiny; a score has to stay finite.
    p = -np.expm1(margins.shape[1] * np.log1p(-beyond.clip(max=1 - 1e-12)))
    return -np.log10(p.clip(min=1e-300)), shape
