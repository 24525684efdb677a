"""What a classifier is, and how it is held still while it is attacked.

A classifier is any ``torch.nn.Module`` that maps images ``(N, C, H, W)``, float32 in [0, 1], to
logits ``(N, K)``. Normalisation is its first layer, so that every eps is in pixel units.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from hashlib import blake2b

import torch
from torch import Tensor, nn

from bezoar import checks


class Normalise(nn.Module):
    """Subtract the mean of each channel and divide by its deviation.

    Args:
        mean: one number a channel, in pixel units of [0, 1].
        std: one number a channel, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise ValueError(
                f"mean of {len(mean)} and std of {len(std)} channels: expected as many"
            )
        for value in std:
            if not value > 0:
                raise ValueError(f"std={value!r}: expected a number above 0")
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to images of the same shape."""
        return (x - self.mean) / self.std


@contextmanager
def frozen(classifier: nn.Module) -> Iterator[nn.Module]:
    """Hold a classifier in eval mode without parameter gradients, then restore both."""
    modes = [(module, module.training) for module in classifier.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    try:
        yield classifier.eval().requires_grad_(False)
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def prepare(classifier: nn.Module) -> nn.Module:
    """Make the copy that the engine attacks: eval mode, frozen, channels-last.

    The original is not touched. The copy computes the same function; only the order of sums
    inside a convolution may differ, by rounding.
    """
    copy = deepcopy(classifier).eval().requires_grad_(False)
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def device_of(classifier: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a classifier that has neither."""
    for tensor in (*classifier.parameters(), *classifier.buffers()):
        return tensor.device
    return torch.device("cpu")


def weights_hash(classifier: nn.Module) -> str:
    """Name a network and its weights: 16 hexadecimal digits of BLAKE2b.

    Two classifiers have the same hash when the classes of all their modules, and names, types,
    shapes and bytes of all parameters and buffers agree, on whatever device they are. Numbers of
    modules without parameters (a dropout rate) are not seen.
    """
    digest = blake2b(digest_size=8)
    for name, module in sorted(classifier.named_modules(), key=lambda named: named[0]):
        digest.update(f"{name}:{type(module).__qualname__};".encode())
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def predict(classifier: nn.Module, x: Tensor, *, batch: int = 256) -> Tensor:
    """Logits ``(N, K)`` on the CPU, in batches, in eval mode, without gradients."""
    device = device_of(classifier)
    with torch.no_grad(), frozen(classifier):
        return torch.cat([classifier(part.to(device)).cpu() for part in x.split(batch)])


def said(logits: Tensor) -> Tensor:
    """The class of each image, ``(N, K)`` to ``(N,)`` int64; -1 where the logits are not finite.

    The largest of NaNs is class 0: such images of class 0 would count as right.
    """
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)


def require(classifier: nn.Module, x: Tensor, classes: int) -> None:
    """Require that the images fit the classifier and that it gives one logit a class.

    Raises:
        ValueError: the images are not images, the classifier cannot take them, or its output
            is not ``(N, classes)``, or finite for none of them.
    """
    checks.images(x)
    found = f"images of shape {tuple(x.shape[1:])}"
    try:
        logits = predict(classifier, x[:2])
    except (RuntimeError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{found}: expected images that the classifier takes; {reason}") from error
    if logits.shape != (len(x[:2]), classes):
        expected = f"expected {classes} logits an image, as many as the data have classes"
        raise ValueError(f"classifier output of shape {tuple(logits.shape)}: {expected}")
    if (said(logits) < 0).all() and (said(predict(classifier, x)) < 0).all():
        raise ValueError("classifier output is not finite: expected logits; check the weights")


def neighbours_matter(classifier: nn.Module, x: Tensor) -> bool:
    """Whether an image's logits change with the other images in the batch (train-mode layers)."""
    whole = predict(classifier, x)
    alone = torch.cat([predict(classifier, one[None]) for one in x])
    atol = 1e-3 * _scale(whole)
    return not torch.allclose(whole, alone, rtol=1e-3, atol=atol, equal_nan=True)


def outputs_random(classifier: nn.Module, x: Tensor) -> bool:
    """Whether two passes over the same images in eval mode differ."""
    first, second = predict(classifier, x), predict(classifier, x)
    atol = 1e-4 * _scale(first)
    return not torch.allclose(first, second, rtol=1e-4, atol=atol, equal_nan=True)


def _scale(logits: Tensor) -> float:
    return max(1e-6, logits.nan_to_num(posinf=0.0, neginf=0.0).abs().max().item())
