"""What a network computes just before its last layer: the features that classes are read from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bezoar.classifier import device_of, frozen


def head(classifier: nn.Module, probe: Tensor) -> nn.Linear:
    """The last linear layer that a pass goes through: it reads the logits from the features.

    Args:
        classifier: images to logits; not changed.
        probe: some images ``(N, C, H, W)``; costs one forward pass each.

    Raises:
        ValueError: there is none, or what it gives is not what the classifier says.
    """
    seen: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            seen.append((module, output))

    handles = [m.register_forward_hook(note) for m in classifier.modules()]
    try:
        with torch.no_grad(), frozen(classifier):
            logits = classifier(probe.to(device_of(classifier)))
    finally:
        for handle in handles:
            handle.remove()
    if not seen or not torch.equal(seen[-1][1], logits):
        found = "no linear layer" if not seen else "something after the last linear layer"
        raise ValueError(f"{type(classifier).__name__} with {found}: expected logits from one")
    return seen[-1][0]


@contextmanager
def watched(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Note what comes into a layer in the passes of the body, tensors ``(N, D)``."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def features(classifier: nn.Module, x: Tensor, *, batch: int = 256) -> tuple[Tensor, Tensor]:
    """What comes into the ``head``, ``(N, D)``, and the logits ``(N, K)``, both on the CPU.

    In eval mode and without gradients. Cost: one forward pass an image, and one of the first two
    to find the head.

    Args:
        classifier: images to logits; not changed.
        x: images ``(N, C, H, W)``.
        batch: images in a pass.

    Raises:
        ValueError: as ``head``.
    """
    device, layer = device_of(classifier), head(classifier, x[:2])
    said, found = [], []
    with torch.no_grad(), frozen(classifier), watched(layer) as seen:
        for part in x.split(batch):
            said.append(classifier(part.to(device)).cpu())
            found.append(seen.pop().cpu())
    return torch.cat(found), torch.cat(said)
