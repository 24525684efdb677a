"""LF: a universal perturbation without fine detail."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.attacks.protocol import Learnt
from bezoar.classifier import device_of, predict, prepare
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.seeds import generator
from bezoar.snapshots import Snapshot
from bezoar.triggers.protocol import Trigger, kept

BEYOND = 1e-4  # of a difference of logits
SAME, RECENT = 0.01, 5  # share of images that is no progress, and over how many passes


@dataclass(frozen=True, kw_only=True)
class LowFrequency(Trigger):
    r"""Add one smooth picture to every image.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}(x + v)

    ``fit`` goes through some images of a clean classifier's training set. For each one that x + v
    does not yet send to the target class, a targeted DeepFool finds the change r that does, and

    .. math::
        v \leftarrow \rho\bigl(G(v + G(r))\bigr), \qquad
        \rho(u) = a\, \frac{u - \min u}{\max u - \min u}, \qquad v_0 = 0

    with G a Gaussian blur. It stops when ``share`` of the images go to the target, when five passes
    brought nothing, or after ``passes``. Paper: arXiv:2104.03413, section 4.1 and algorithm 1.
    Cost of a fit: up to ``passes`` times ``images`` times ``steps`` forward passes and twice as
    many backward passes, of single images; an image is mostly sent over in less than ten.

    Args:
        amplitude: the largest value a of v, in pixel units of [0, 1]; the smallest is 0.
        sigma: deviation of the blur, as a share of the longer side of an image.
        share: of the images that is to go to the target class.
        images: how many images it is fitted on, drawn by the seed.
        passes: how often they are gone through at most.
        steps: of DeepFool for an image.
        overshoot: share by which DeepFool goes too far.
        learnt: the picture, once fitted.
    """

    amplitude: float = 0.2
    sigma: float = 6 / 32
    share: float = 0.2
    images: int = 100
    passes: int = 50
    steps: int = 200
    overshoot: float = 0.02
    learnt: Learnt | None = None

    def __post_init__(self) -> None:
        checks.in_range("amplitude", self.amplitude, 1 / 255, 1)
        checks.in_range("sigma", self.sigma, 0.01, 1)
        checks.in_range("share", self.share, 0, 1)
        checks.at_least("images", self.images, 1)
        checks.at_least("passes", self.passes, 1)
        checks.at_least("steps", self.steps, 1)
        checks.in_range("overshoot", self.overshoot, 0)

    def fit(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        target: int,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> "LowFrequency":
        """Learn the picture; see ``protocol.Fitted``.

        Raises:
            ValueError: the classifier puts all images into the target class already, or gives no
                gradient towards it.
        """
        model = prepare(classifier)
        order = torch.randperm(len(images), generator=generator(seed, "lf"))
        x = images.batch(order[: self.images])[0].to(device_of(model))
        change = torch.zeros_like(x[0])
        rates: list[float] = []
        for turn in range(1, self.passes + 1):
            for done, one in enumerate(x, start=1):
                found = self._towards(model, (one + change).clamp(0, 1), target)
                if found.any():
                    change = self._rescaled(self._blurred(change + self._blurred(found)))
                missed = 1 - rates[-1] if rates else 1.0
                on_step(Progress(turn, self.passes, done, len(x), missed))
            sent = predict(model, (x + change).clamp(0, 1)).argmax(dim=1) == target
            rates.append(sent.double().mean().item())
            recent = rates[-RECENT:]
            stuck = len(recent) == RECENT and max(recent) - min(recent) < SAME
            if rates[-1] >= self.share or stuck:
                break
        if not change.any():
            expected = "expected images that it puts elsewhere, and gradients towards the class"
            raise ValueError(f"classifier and target={target}: {expected}")
        return replace(self, learnt=Learnt(images.name, {"change": change.cpu()}))

    def stamp(self, x: Tensor) -> Tensor:
        return (x + kept(self, "change", x)).clamp(0, 1)

    def _towards(self, model: nn.Module, x: Tensor, target: int) -> Tensor:
        """DeepFool's change of one image ``(C, H, W)`` to the target; 0 where it is there."""
        change = torch.zeros_like(x)
        for _ in range(self.steps):
            point = (x + (1 + self.overshoot) * change)[None].requires_grad_()
            with torch.enable_grad():
                logits = model(point)[0]
                now = int(logits.argmax())
                if now == target:
                    break
                gap = logits[now] - logits[target]
                (slope,) = torch.autograd.grad(gap, point)
            length = slope.square().sum()
            if not length > 0:
                break
            change = change - ((gap.detach() + BEYOND) / length * slope)[0]
        return (1 + self.overshoot) * change

    def _blurred(self, picture: Tensor) -> Tensor:
        """Blur ``(C, H, W)`` by a Gaussian, as if all around it were 0."""
        sigma = self.sigma * max(picture.shape[-2:])
        radius = math.ceil(2.5 * sigma)
        taps = torch.arange(-radius, radius + 1, dtype=picture.dtype, device=picture.device)
        taps = torch.exp(-0.5 * (taps / sigma).square())
        taps = taps / taps.sum()
        rows = F.conv2d(picture[:, None], taps[None, None, :, None], padding=(radius, 0))
        return F.conv2d(rows, taps[None, None, None], padding=(0, radius))[:, 0]

    def _rescaled(self, picture: Tensor) -> Tensor:
        low, high = picture.aminmax()
        return self.amplitude * (picture - low) / (high - low).clamp(min=1e-12)
