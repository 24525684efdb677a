"""IBD-PSC: reject what keeps its class when the scales of batch norms grow."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.oracle import DRAWS
from bezoar.classifier import device_of, frozen, predict, random_modules
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence
from bezoar.detection import alarmed
from bezoar.fit import Progress, silent
from bezoar.guards.fixed import judged
from bezoar.guards.protocol import Guard
from bezoar.models import IBDPSC as Network
from bezoar.models import Sureness
from bezoar.models.ibd_psc import scalable
from bezoar.results import Rate
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class IBDPSC(Guard):
    r"""Scale the last batch norms up until clean images are lost; reject what keeps its class.

    .. math::
        -\ln\Bigl(1 - \frac1m \sum_{k = k_0}^{k_0 + m - 1} \mathrm{softmax}(f_k(x))_c\Bigr)
        > \tau, \qquad c = \arg\max f(x)

    with :math:`f_k` the classifier f whose last k batch norms have scale and shift times
    ``factor``, and :math:`k_0` the smallest k for which the error of :math:`f_k` on clean
    validation images exceeds ``error`` (arXiv:2405.09786). Fewer than m networks are there if
    :math:`k_0` is near the number of batch norms. The classes stay those of the classifier. The
    threshold is the lowest that rejects at most a share ``fpr`` of the clean validation images. See
    ``models.ibd_psc``.

    Which batch norms are the last is seen in a pass, not taken from the order of their names.

    Cost: :math:`m + 1` passes for a score; to find :math:`k_0`, as many on the validation images.

    Args:
        factor: on scale and shift, above 0.
        error: share of the clean validation images that the first scaled network must name wrongly,
            in [0, 1].
        count: m, how many scaled networks.
        fpr: share of the clean images that may be rejected, in [0, 1].
        images: on how many validation images all this is set, the first of the split; 0 is all.
    """

    factor: float = 1.5
    error: float = 0.6
    count: int = 5
    fpr: float = 0.05
    images: int = 0

    def __post_init__(self) -> None:
        checks.in_range("factor", self.factor, 0)
        if not self.factor:
            raise ValueError(f"factor={self.factor!r}: expected a number above 0")
        checks.in_range("error", self.error, 0, 1)
        checks.in_range("fpr", self.fpr, 0, 1)
        checks.at_least("count", self.count, 1)
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
        clean, meter = evidence.validation.at_most(self.images), Meter()
        network = deepcopy(classifier).eval().requires_grad_(False)
        names = last_norms(network, clean.batch(slice(2))[0])
        start = self._start(network, names, clean, meter)
        whole = Network(
            network=network,
            sureness=Sureness(),
            norms=names[: start + self.count - 1],
            start=start,
            factor=self.factor,
        )
        whole.to(device_of(classifier)).eval()
        alarmed(whole, clean, self.fpr, whole.passes, meter)
        return judged(whole, evidence, self.images, meter)

    def _start(self, network: nn.Module, names: list[str], images: ImageSet, meter: Meter) -> int:
        """How many batch norms must be scaled before the classifier fails on clean images."""
        begun = time.monotonic()
        x, y = images.batch(slice(None))
        draws = DRAWS if random_modules(network) else 1
        every = Network(network=network, sureness=Sureness(), norms=names, factor=self.factor)
        for k in range(1, len(names) + 1):
            said = predict(_Scaled(every, k), x, draws=draws).argmax(dim=1)
            meter.forward += draws * len(x)
            wrong = Rate(int((said != y).sum()), len(y))
            if wrong.value > self.error:
                meter.seconds += time.monotonic() - begun
                return k
        found = f"error={self.error!r}: {wrong.value:.0%} of {images.name} are wrong"
        scaled = f"with all {len(names)} batch norms times {self.factor:g}"
        raise ValueError(f"{found} {scaled}: expected more; take a larger factor")


class _Scaled(nn.Module):
    """The classifier with its last k batch norms scaled."""

    def __init__(self, every: Network, k: int) -> None:
        super().__init__()
        self.every, self._k = every, k

    def forward(self, x: Tensor) -> Tensor:
        return self.every.scaled(x, self._k)


def last_norms(network: nn.Module, probe: Tensor) -> list[str]:
    """Names of the batch norms with scale and shift, by when they were passed, the last first.

    Args:
        network: images to logits; not changed.
        probe: some images ``(N, C, H, W)``; costs one forward pass each.

    Raises:
        ValueError: there is none.
    """
    passed: list[nn.Module] = []
    names = {module: name for name, module in network.named_modules() if scalable(module)}
    handles = [
        module.register_forward_hook(lambda module, inputs, output: passed.append(module))
        for module in names
    ]
    try:
        with torch.no_grad(), frozen(network):
            network(probe.to(device_of(network)))
    finally:
        for handle in handles:
            handle.remove()
    if not passed:
        found = f"{type(network).__name__} without batch norm"
        raise ValueError(f"{found}: expected one at least that has scale and shift")
    return [names[module] for module in dict.fromkeys(reversed(passed))]
