"""Masks on the channels of a network: learnt while all else stands still, then pruned by."""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import accuracy
from bezoar.fit import SGD, BatchLoss, Supervised
from bezoar.snapshots import Tree

Statistics = Literal["running", "batch"]
STATISTICS = ("running", "batch")
MOST = 0.9  # a mask above it has hardly moved


def scales(network: nn.Module) -> dict[str, Any]:
    """What a mask multiplies, by name: all batch norms with a scale; if none, the convolutions.

    Raises:
        ValueError: the network has neither.
    """
    own = dict(network.named_parameters())
    for kind in (nn.BatchNorm2d, nn.Conv2d):
        found = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, kind) and f"{name}.weight" in own
        }
        if found:
            return found
    expected = "expected one whose channels can be masked"
    raise ValueError(f"{type(network).__name__} without a batch norm or a convolution: {expected}")


class Change(NamedTuple):
    """What is added to the masks and to the shifts of one layer, each ``(channels,)``."""

    scale: Tensor
    shift: Tensor


class Masked(nn.Module):
    r"""A network whose channels are multiplied by masks, the only parameters that learn.

    .. math::
        (m + d)\, \gamma\, \hat x + (1 + s)\, \beta

    of a batch norm; of a convolution (m + d) times the filter and (1 + s) times the bias.

    Args:
        network: held in place without gradients; its masks begin at 1.
        statistics: those of batch norms while masks are learnt: ``"running"`` keeps the network in
            eval mode, ``"batch"`` puts it into train mode, where its own statistics go on moving.
    """

    def __init__(self, network: nn.Module, statistics: Statistics) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self._owners, self._statistics = scales(network), statistics
        self.masks = nn.ParameterList(
            torch.ones(len(owner.weight), device=owner.weight.device, dtype=owner.weight.dtype)
            for owner in self._owners.values()
        )

    def forward(self, x: Tensor, changes: Sequence[Change] | None = None) -> Tensor:
        """Images ``(N, C, H, W)`` to logits ``(N, K)``; without ``changes`` d and s are 0."""
        values = {}
        for k, (name, owner) in enumerate(self._owners.items()):
            scale: Tensor = self.masks[k] if changes is None else self.masks[k] + changes[k].scale
            wide = scale.reshape(-1, *[1] * (owner.weight.ndim - 1))
            values[f"{name}.weight"] = wide * owner.weight
            if changes is not None and owner.bias is not None:
                values[f"{name}.bias"] = (1 + changes[k].shift) * owner.bias
        logits: Tensor = functional_call(self.network, values, (x,))
        return logits

    def train(self, mode: bool = True) -> "Masked":
        super().train(mode)
        self.network.train(mode and self._statistics == "batch")
        return self


class Masking:
    """The training of masks by SGD; after each step they are cut to [0, 1].

    Args:
        model: its masks are learnt.
        images: what they learn from.
        loss: of a batch; it is given ``model``.
        lr: learning rate.
        momentum: see ``fit.SGD``.
        meter: where the cost is counted.
    """

    def __init__(
        self,
        model: Masked,
        images: ImageSet,
        *,
        loss: BatchLoss,
        lr: float,
        momentum: float,
        meter: Meter,
    ) -> None:
        self.model: nn.Module = model
        self.meter, self.masks = meter, model.masks
        optimize = SGD(momentum=momentum, weight_decay=0)
        self._learning = Supervised(model, images, loss=loss, lr=lr, optimize=optimize, meter=meter)

    def begin(self, epoch: int) -> int:
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        loss = self._learning.step(rows, position)
        with torch.no_grad():
            for mask in self.masks:
                mask.clamp_(0, 1)
        return loss

    def state_dict(self) -> Tree:
        return self._learning.state_dict()

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state)


class Trial(NamedTuple):
    """A network in which the channels with small masks are pruned.

    Attributes:
        threshold: the largest mask that goes.
        pruned: how many channels went.
        clean: accuracy on validation images.
        classifier: the pruned copy, in eval mode.
    """

    threshold: float
    pruned: int
    clean: float
    classifier: nn.Module


def prune(network: nn.Module, masks: Sequence[Tensor], threshold: float) -> int:
    """Make the scale zero wherever the mask is not above a threshold, in place.

    Shifts and all other weights stay as they are.

    Returns:
        How many channels that are.
    """
    count = 0
    with torch.no_grad():
        for owner, mask in zip(scales(network).values(), masks, strict=True):
            gone = mask <= threshold
            owner.weight[gone.to(owner.weight.device)] = 0
            count += int(gone.sum())
    return count


def trials(
    classifier: nn.Module,
    masks: Sequence[Tensor],
    thresholds: Iterable[float],
    clean: float,
    validation: ImageSet,
    meter: Meter,
) -> Iterator[Trial]:
    """Prune a fresh copy at one threshold after the other.

    Cost: a forward pass a validation image for each threshold that prunes others than the last.

    Args:
        classifier: not changed.
        masks: of its ``scales``.
        thresholds: rising or falling.
        clean: accuracy of the classifier as it is.
        validation: what the copies are judged on.
        meter: where the cost is counted.
    """
    last = Trial(-1.0, 0, clean, deepcopy(classifier).eval())
    for threshold in thresholds:
        copy = deepcopy(classifier).eval()
        count = prune(copy, masks, threshold)
        # Of a smaller and a larger threshold, one prunes all that the other does.
        if count != last.pruned:
            clean = accuracy(copy, validation, meter)
            last = Trial(threshold, count, clean, copy)
        yield last._replace(threshold=threshold)
