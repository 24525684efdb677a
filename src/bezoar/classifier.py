"""What a classifier is, and how it is held still while it is attacked.

A classifier is any ``torch.nn.Module`` that maps images ``(N, C, H, W)``, float32 in [0, 1], to
logits ``(N, K)``. Normalisation is its first layer, so that every eps is in pixel units.

Any module inside of it may declare what an attacker who knows it would do about it:

- ``surrogate(x)``: a differentiable stand-in for its forward, whose gradient the attacks use.
- ``reseed(keys)``: its noise in the passes that follow is to depend on nothing but ``keys``,
  ``(N,)`` int64, one an image; ``None`` lets it draw from torch's generator again.

A classifier that is a detector too has ``score(x)``, how suspicious each image looks, ``(N,)``,
and a buffer ``threshold``, a scalar: what lies above it is rejected. Its logits ignore that.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from hashlib import blake2b
from types import MethodType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.folding import folded
from bezoar.seeds import subkeys

TRIALS = 4  # timed passes of each precision
PASSES = 8  # over the same images, to see whether the outputs are random
RANDOM = 1e-4  # change of an output from pass to pass, as a share of the largest
NEIGHBOURS = 1e-3  # the same, from one batch to another: sums may be in another order


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


def prepare(classifier: nn.Module, probe: Tensor | None = None) -> nn.Module:
    """Make the copy that the engine attacks: eval mode, frozen, channels-last.

    The original is not touched. The copy computes the same function; only the order of sums
    inside a convolution may differ, by rounding. Where a module declares a ``surrogate``, the
    gradient of the copy is the surrogate's (BPDA, arXiv:1802.00420, section 4.1).

    Args:
        classifier: images to logits.
        probe: some images, by which batch norm is folded into convolutions where it may be; see
            ``folding``. A classifier that declares a surrogate or its randomness is left as it is.
    """
    copy = deepcopy(classifier).eval().requires_grad_(False)
    declared = random_modules(copy)
    for module in copy.modules():
        if callable(getattr(module, "surrogate", None)):
            module.forward = MethodType(_with_surrogate, module)
            declared.append(module)
    if probe is not None and not declared:
        copy = folded(copy, probe.to(device_of(copy)))
    return laid_out(copy)


Network = TypeVar("Network", bound=nn.Module)
FEWEST = 16  # inputs of a strided pointwise convolution that runs safely on channels-last weights


def laid_out(network: Network) -> Network:
    """Put the weights channels-last, in place: convolutions run up to twice as fast on them.

    The function stays the same. A network with a strided 1x1 convolution of 2 to 15 inputs gets
    torch's own layout: on such weights oneDNN, as it comes with torch 2.13, writes beyond its
    memory on the way back, with two threads on an odd number of images, or on CPUs without
    AVX-512, and the process dies sooner or later.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            inputs = module.in_channels // module.groups
            if max(module.stride) > 1 and 1 < inputs < FEWEST:
                return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Lowered(nn.Module):
    """A classifier whose convolutions and matrix products run in bfloat16, to search on.

    Images, logits and gradients stay float32; what torch's autocast keeps in float32 does too.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.inner = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.inner(x)
        return logits.float()


def lowering(classifier: nn.Module, x: Tensor) -> float:
    """Seconds of a pass in bfloat16 over those in float32, forward and backward.

    On a CPU with bfloat16 units 0.55 was seen, on one without them 24.

    Args:
        classifier: images to logits; not changed.
        x: as many images as a pass will have, ``(N, C, H, W)``.
    """
    prepared = prepare(classifier, x[:2])
    point = x.to(device_of(prepared)).requires_grad_()
    times: dict[nn.Module, list[float]] = {prepared: [], Lowered(prepared): []}
    for _ in range(TRIALS):
        for network, taken in times.items():
            start = time.perf_counter()
            float(torch.autograd.grad(network(point).sum(), point)[0].sum())  # waits for the device
            taken.append(time.perf_counter() - start)
    full, low = (min(taken) for taken in times.values())
    return low / full


def _with_surrogate(module: Any, x: Tensor) -> Tensor:
    """The forward of a module, with the gradient of its surrogate."""
    with torch.no_grad():
        value: Tensor = type(module).forward(module, x)
    if not torch.is_grad_enabled():
        return value
    stand_in: Tensor = module.surrogate(x)
    if stand_in.shape != value.shape:
        found = f"{type(module).__name__}.surrogate gives shape {tuple(stand_in.shape)}"
        raise ValueError(f"{found}: expected that of its forward, {tuple(value.shape)}")
    joined: Tensor = _Joined.apply(value, stand_in)
    return joined


class _Joined(torch.autograd.Function):
    """One value with the gradient of another; ``s + (f - s)`` would round the value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def random_modules(classifier: nn.Module) -> list[nn.Module]:
    """The modules that declare their randomness, by a method ``reseed``."""
    return [m for m in classifier.modules() if callable(getattr(m, "reseed", None))]


@contextmanager
def reseeded(classifier: nn.Module, keys: Tensor) -> Iterator[None]:
    """Let all noise of the passes in the body follow from ``keys``, ``(N,)`` int64, one an image.

    Every module that declares its randomness gets a stream of its own.
    """
    modules: list[Any] = random_modules(classifier)
    try:
        for k, module in enumerate(modules):
            module.reseed(subkeys(keys, k))
        yield
    finally:
        for module in modules:
            module.reseed(None)


def averaged(answers: Sequence[Tensor]) -> Tensor:
    """One answer from several draws: the log of the mean probability ``(N, K)``.

    The classes of E f(t(x)), with f the probabilities (arXiv:1802.00420, section 4.2). Where the
    classifier is sure in every draw this is a vote; one draw alone keeps its logits.
    """
    if len(answers) == 1:
        return answers[0]
    logs = torch.stack([F.log_softmax(logits, dim=1) for logits in answers])
    return logs.logsumexp(dim=0) - math.log(len(answers))


def device_of(classifier: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a classifier that has neither."""
    for tensor in (*classifier.parameters(), *classifier.buffers()):
        return tensor.device
    return torch.device("cpu")


def weights_hash(classifier: nn.Module) -> str:
    """Name a network and its weights: 16 hexadecimal digits of BLAKE2b.

    Two classifiers have the same hash when the classes of all their modules, and names, types,
    shapes and bytes of all parameters and buffers agree, on whatever device they are. Of modules
    without either (a median filter) their ``fields`` are seen, where they have some; other numbers
    of theirs (a dropout rate) are not.
    """
    digest = blake2b(digest_size=8)
    for name, module in sorted(classifier.named_modules(), key=lambda named: named[0]):
        digest.update(f"{name}:{type(module).__qualname__};".encode())
        fields = getattr(module, "fields", None)
        if fields and not module.state_dict():
            digest.update(f"{sorted(fields.items())};".encode())
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def predict(
    classifier: nn.Module,
    x: Tensor,
    *,
    batch: int = 256,
    keys: Tensor | None = None,
    draws: int = 1,
) -> Tensor:
    """Logits ``(N, K)`` on the CPU, in batches, in eval mode, without gradients.

    Args:
        classifier: images to logits.
        x: images ``(N, C, H, W)``.
        batch: images in a pass.
        keys: of the noise of each image where the classifier declares its randomness, ``(N,)``
            int64; by default its place in ``x``.
        draws: passes, each with fresh noise; what several give is ``averaged``.
    """
    device = device_of(classifier)
    keys = torch.arange(len(x)) if keys is None else keys
    with torch.no_grad(), frozen(classifier):
        return torch.cat(
            [
                _answer(classifier, part.to(device), own.to(device), draws).cpu()
                for part, own in zip(x.split(batch), keys.split(batch), strict=True)
            ]
        )


def _answer(classifier: nn.Module, x: Tensor, keys: Tensor, draws: int) -> Tensor:
    answers = []
    for draw in range(draws):
        with reseeded(classifier, subkeys(keys, draw)):
            answers.append(classifier(x))
    return averaged(answers)


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


def output_change(classifier: nn.Module, x: Tensor) -> float:
    """Largest change of an output from pass to pass, as a share of the largest output.

    In eval mode, over the same images; declared noise is held, so that it changes nothing.
    """
    first = predict(classifier, x)
    others = torch.stack([predict(classifier, x) for _ in range(PASSES - 1)])
    return _change(others, first)


def neighbour_change(classifier: nn.Module, x: Tensor) -> float:
    """Largest change of an output when the image is alone in its batch, as a share likewise."""
    whole, keys = predict(classifier, x), torch.arange(len(x))
    alone = [
        predict(classifier, one[None], keys=key[None]) for one, key in zip(x, keys, strict=True)
    ]
    return _change(torch.cat(alone), whole)


def outputs_random(classifier: nn.Module, x: Tensor) -> bool:
    """Whether passes over the same images in eval mode differ, though declared noise is held."""
    return output_change(classifier, x) > RANDOM


def neighbours_matter(classifier: nn.Module, x: Tensor) -> bool:
    """Whether an image's logits change with the other images in the batch (train-mode layers).

    Where they change from pass to pass as well, nobody can tell.
    """
    return neighbour_change(classifier, x) > NEIGHBOURS and not outputs_random(classifier, x)


def from_probabilities(classifier: nn.Module, x: Tensor) -> float:
    """How far the outputs are from probabilities, which are no logits: below 0, or from sum 1."""
    outputs = predict(classifier, x)
    outputs = outputs[torch.isfinite(outputs).all(dim=1)]
    return max((outputs.sum(dim=1) - 1).abs().max().item(), -outputs.min().item())


def _change(outputs: Tensor, of: Tensor) -> float:
    """Where an output is not finite every time, nothing changes."""
    changes = (outputs - of).nan_to_num(nan=0.0)
    change, scale = changes.abs().max().item(), of.nan_to_num(posinf=0.0, neginf=0.0).abs().max()
    return change / max(1e-6, scale.item())
