"""Pruning filter by filter, each time the one that the unlearning loss points at most."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar.channels import Layer, layers
from bezoar.classifier import device_of, frozen
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.repairs.sources import Stamp
from bezoar.seeds import generator

PASS = 256  # images in a pass


class Filter(NamedTuple):
    """A filter: the number of its convolution in the order of a pass, and its own."""

    layer: int
    number: int


class Score(Protocol):
    """How much a filter is to blame: a value, one call a layer."""

    def __call__(self, weight: Tensor, gradient: Tensor, rng: torch.Generator) -> Tensor:
        """Scores ``(O,)`` of filters ``(O, I, h, w)`` from the gradient of the unlearning loss."""


@dataclass(frozen=True)
class ByGradient:
    """Mean absolute gradient of its weights, that of arXiv:2405.03918."""

    def __call__(self, weight: Tensor, gradient: Tensor, rng: torch.Generator) -> Tensor:
        return gradient.abs().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class ByTaylor:
    """The same weighted by the weights: what the loss would change if they went."""

    def __call__(self, weight: Tensor, gradient: Tensor, rng: torch.Generator) -> Tensor:
        return (weight * gradient).abs().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class ByLot:
    """A number drawn for each: the control."""

    def __call__(self, weight: Tensor, gradient: Tensor, rng: torch.Generator) -> Tensor:
        return torch.rand(len(weight), generator=rng).to(weight)


def blamed(
    model: nn.Module, images: ImageSet, stamp: Stamp, score: Score, *, seed: int, meter: Meter
) -> Iterator[Filter]:
    r"""Silence one filter after the other, in place, and tell which.

    Each time the one with the highest score of all that are left, by the gradient of
    :math:`\sum_i L(f(T(x_i)), y_i)`, in eval mode. Ends when all scores are zero, or when one
    filter is left. Cost: of each filter one pass each way an image, and one image to begin with.

    Args:
        model: in eval mode; it is pruned.
        images: clean ones with true labels.
        stamp: puts the trigger on them.
        score: by what a filter is chosen.
        seed: names what a score draws.
        meter: where the cost is counted.
    """
    x, _ = images.batch(slice(1))
    found, rng = layers(model, x), generator(seed, "grad-prune")
    meter.forward += 1
    left = [torch.ones(layer.channels, dtype=torch.bool) for layer in found]
    for _ in range(sum(map(len, left)) - 1):
        gradients = _gradients(model, found, images, stamp, meter)
        weights = [layer.conv.weight.detach() for layer in found]
        scores = [
            score(weight, gradient, rng).cpu() * own
            for weight, gradient, own in zip(weights, gradients, left, strict=True)
        ]
        tops = torch.stack([own.max() for own in scores])
        layer = int(tops.argmax())
        if tops[layer] <= 0:
            return
        number = int(scores[layer].argmax())
        found[layer].silence([number])
        left[layer][number] = False
        yield Filter(layer, number)


def silence(model: nn.Module, gone: list[Filter], probe: Tensor) -> Callable[[], None]:
    """Silence some filters of a network now, and whenever the function that comes back is called.

    Cost: one forward pass an image of ``probe``, if there is a filter to silence.
    """
    if not gone:
        return lambda: None
    found = layers(model, probe)
    numbers: dict[int, list[int]] = {}
    for one in gone:
        numbers.setdefault(one.layer, []).append(one.number)

    def again() -> None:
        for layer, own in numbers.items():
            found[layer].silence(own)

    again()
    return again


def _gradients(
    model: nn.Module, found: list[Layer], images: ImageSet, stamp: Stamp, meter: Meter
) -> list[Tensor]:
    """Gradient of the unlearning loss towards the filters of each layer."""
    weights = [layer.conv.weight for layer in found]
    total = [torch.zeros_like(weight) for weight in weights]
    with frozen(model):
        for weight in weights:
            weight.requires_grad_(True)
        for rows in torch.arange(len(images)).split(PASS):
            x, y = (part.to(device_of(model)) for part in images.batch(rows))
            loss = F.cross_entropy(model(stamp(x)), y, reduction="sum")
            for sum_, part in zip(total, torch.autograd.grad(loss, weights), strict=True):
                sum_ += part
    meter.forward += len(images)
    meter.backward += len(images)
    return total
