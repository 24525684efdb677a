"""TrojanNN: a patch that excites some neurons of a clean network."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.protocol import Learnt
from bezoar.classifier import device_of, frozen
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.seeds import generator
from bezoar.snapshots import Snapshot
from bezoar.triggers.protocol import Trigger, kept, require_room


@dataclass(frozen=True, kw_only=True)
class TrojanNN(Trigger):
    r"""Add a patch that was made to excite the neurons which the last layer listens to most.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}(x + v), \qquad
        v = \arg\min_{v \in [0, 1]^m} \sum_{k \in S} \bigl(b - h_k(v)\bigr)^2

    with m the square at the bottom right, h the input of the last linear layer for the patch on
    black, and S the ``neurons`` with the largest sum of absolute weights. By signed gradient steps
    from noise; the best step is kept. Paper: Liu et al., "Trojaning attack on neural networks",
    NDSS 2018, section IV, here with poison from the start instead of a retraining, as in
    arXiv:2206.12654. Cost of ``fit``: ``steps`` passes each way of one image.

    Args:
        size: edge of the patch, in pixels.
        neurons: how many are excited.
        goal: the value b that they are to reach.
        steps: of the search.
        step_size: of the search, in pixel units.
        learnt: the patch, once fitted.
    """

    size: int = 8
    neurons: int = 2
    goal: float = 100.0
    steps: int = 1000
    step_size: float = 0.1
    learnt: Learnt | None = None

    def __post_init__(self) -> None:
        checks.at_least("size", self.size, 1)
        checks.at_least("neurons", self.neurons, 1)
        checks.in_range("goal", self.goal, 0)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("step_size", self.step_size, 1 / 255, 1)

    def fit(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        target: int,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> "TrojanNN":
        """Look for the patch; see ``protocol.Fitted``. Only the shape of the images is used.

        Raises:
            ValueError: the classifier has no linear layer, or none that answers to the patch.
        """
        layers = [part for part in classifier.modules() if isinstance(part, nn.Linear)]
        if not layers:
            raise ValueError(f"{type(classifier).__name__}: expected one with a linear layer")
        last, seen = layers[-1], list[Tensor]()
        chosen = last.weight.detach().abs().sum(dim=0).topk(self.neurons).indices
        noise = torch.rand(1, *images.shape, generator=generator(seed, "trojannn"))
        require_room("size", self.size, noise)
        mask = torch.zeros_like(noise)
        mask[..., -self.size :, -self.size :] = 1
        patch, mask = (part.to(device_of(classifier)) for part in (noise * mask, mask))
        handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        best, least, answers = patch, float("inf"), False
        try:
            with frozen(classifier), torch.enable_grad():
                for step in range(self.steps):
                    seen.clear()
                    point = patch.clone().requires_grad_()
                    classifier(point)
                    loss = (self.goal - seen[-1][0, chosen]).square().sum()
                    (slope,) = torch.autograd.grad(loss, point)
                    if loss.item() < least:
                        best, least = patch, loss.item()
                    answers |= bool((slope * mask).any())
                    patch = (patch - self.step_size * slope.sign() * mask).clamp(0, 1)
                    on_step(Progress(1, 1, step + 1, self.steps, loss.item()))
        finally:
            handle.remove()
        if not answers:
            found = f"{type(classifier).__name__}: neurons that do not answer to a patch"
            raise ValueError(f"{found} of size={self.size}: expected a gradient; enlarge it")
        return replace(self, learnt=Learnt(images.name, {"patch": best[0].cpu()}))

    def stamp(self, x: Tensor) -> Tensor:
        return (x + kept(self, "patch", x)).clamp(0, 1)
