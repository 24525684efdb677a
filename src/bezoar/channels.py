"""The channels of a convolutional network: which batch norm scales which, and how one is silenced.

Found by watching a pass, so any ``nn.Module`` will do, whatever its forward looks like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bezoar.classifier import device_of, frozen


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution, and the batch norm that reads its output as it is.

    A channel of a layer is one of its output maps: filter i of the convolution and number i of the
    batch norm. Where the output is added to something else first (the second convolution of a
    pre-activation block) there is no such norm: silenced, the channel adds nothing to the sum.

    Attributes:
        name: of the convolution in the network.
        conv: its weight is ``(channels, inputs / groups, height, width)``.
        norm: ``None`` where there is none with a scale and a shift.
        norm_name: of the batch norm in the network, empty without one.
    """

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    norm_name: str

    @property
    def channels(self) -> int:
        return self.conv.out_channels

    def silence(self, channels: Sequence[int] | Tensor) -> None:
        """Make some channels zero after the norm, in place: filter, bias, scale and shift."""
        rows = torch.as_tensor(channels, dtype=torch.int64, device=self.conv.weight.device)
        with torch.no_grad():
            self.conv.weight[rows] = 0
            if self.conv.bias is not None:
                self.conv.bias[rows] = 0
            if self.norm is not None:
                self.norm.weight[rows] = 0
                self.norm.bias[rows] = 0


def layers(model: nn.Module, probe: Tensor) -> list[Layer]:
    """The convolutions of a network, in the order of a pass.

    Cost: one forward pass an image of ``probe``.

    Args:
        model: images to logits; not changed.
        probe: one image or some, ``(N, C, H, W)``.

    Raises:
        ValueError: no convolution, one that is used twice in a pass, or whose weight is computed
            from other parameters, so that a filter cannot be silenced on its own.
    """
    names = {module: name for name, module in model.named_modules()}
    order: list[nn.Conv2d] = []
    # By the tensor that a convolution gave; kept, so that no other takes its place in memory.
    given: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    norms: dict[nn.Conv2d, nn.BatchNorm2d] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            order.append(module)
            # The version tells whether something worked on the tensor in place before the norm.
            given[id(output)] = (module, output, output._version)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and module.affine and id(inputs[0]) in given:
            conv, output, version = given[id(inputs[0])]
            if output._version == version:
                norms[conv] = module

    handles = [m.register_forward_hook(after) for m in names]
    handles += [m.register_forward_pre_hook(before) for m in names]
    try:
        with torch.no_grad(), frozen(model):
            model(probe.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    _require_prunable(model, order, names)
    return [
        Layer(names[conv], conv, norms.get(conv), names[norms[conv]] if conv in norms else "")
        for conv in order
    ]


def _require_prunable(
    model: nn.Module, order: Sequence[nn.Conv2d], names: Mapping[nn.Module, str]
) -> None:
    if not order:
        found = f"{type(model).__name__} without a convolution"
        raise ValueError(f"{found}: expected a convolutional network, whose channels can be pruned")
    for conv in order:
        if order.count(conv) > 1:
            expected = "expected each to be used once; its channels mean two things"
            raise ValueError(f"convolution {names[conv]!r} is used twice in a pass: {expected}")
        if parametrize.is_parametrized(conv) or conv.weight not in set(conv.parameters()):
            expected = "expected a parameter of its own; remove the parametrization first"
            raise ValueError(f"convolution {names[conv]!r} with a computed weight: {expected}")


def scaled(
    found: Sequence[Layer], scales: Sequence[Tensor], shifts: Sequence[Tensor] | None = None
) -> Mapping[str, Tensor]:
    r"""Parameters under which every channel is multiplied, for ``torch.func.functional_call``.

    .. math::
        m\,\gamma\,\hat x + s\,\beta

    of a batch norm; without one, m times the filter and s times its bias.

    Args:
        found: the layers.
        scales: m of each, ``(channels,)``, with gradients where they are wanted.
        shifts: s of each likewise; ``None`` is 1.

    Returns:
        By the name of a parameter its value; those that stay as they are have none.
    """
    made: dict[str, Tensor] = {}
    for k, (layer, scale) in enumerate(zip(found, scales, strict=True)):
        if layer.norm is not None:
            owner: Any = layer.norm
            made[f"{layer.norm_name}.weight"] = scale * owner.weight.detach()
            name = layer.norm_name
        else:
            owner, name = layer.conv, layer.name
            made[f"{name}.weight"] = scale[:, None, None, None] * owner.weight.detach()
        if shifts is not None and owner.bias is not None:
            made[f"{name}.bias"] = shifts[k] * owner.bias.detach()
    return made
