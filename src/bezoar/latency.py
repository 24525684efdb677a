"""What a guard costs at inference: the guarded classifier and its parts, timed side by side."""

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bezoar import checks
from bezoar.audit import Row, number_row
from bezoar.classifier import device_of, frozen
from bezoar.costs import Latency, ratio
from bezoar.models import JOINED, Purified

BATCH = 64  # at which the whole is compared with the classifier alone


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """What of a model is timed: the whole; the guard, where it can run alone; the classifier.

    What stands behind the guard is the classifier, even if it has a guard itself. A guard that is
    no purifier has no pass of its own, and a model without a guard is a whole without parts.
    """
    inside: Any = model
    if isinstance(model, Purified):
        return {"whole": model, "guard": inside.purifier, "classifier": inside.network}
    if type(model) in JOINED.values():
        return {"whole": model, "classifier": inside.network}
    return {"whole": model}


def latency(
    model: nn.Module,
    x: Tensor,
    *,
    batches: Sequence[int] = (1, BATCH),
    runs: int = 100,
    warmup: int = 10,
    seconds: float = 30.0,
    least: int = 5,
) -> list[Latency]:
    """Time a model and, if it is guarded, its parts.

    A round is one pass of each part, one after the other, so that whatever slows the machine down
    hits all of them alike. Rounds to warm up come first and are not counted. The passes are in
    eval mode and without gradients, by ``no_grad`` and not by ``inference_mode``: a guard that
    optimises at inference needs gradients inside of it, which the latter forbids. Every run waits
    for the device; the way of a batch to it is timed apart.

    The first round of each size of batch measures the memory: on CUDA by torch's own count, on the
    CPU by the tensors that torch's operations make, from their birth to their end. Scratch space
    that an operation frees before it returns is not seen on the CPU.

    Torch's global random state is left as it was. Cost: as many passes as rounds, of each part.

    Args:
        model: images to logits; not changed.
        x: images ``(N, C, H, W)``; a batch that is larger repeats them.
        batches: sizes of batch.
        runs: timed rounds.
        warmup: rounds before them.
        seconds: a size of batch for which the timed rounds together take longer, or those to warm
            up, gets fewer of them.
        least: timed rounds that are made in any case.

    Returns:
        For each size of batch the parts in the order of ``parts``.

    Raises:
        ValueError: no images, or a number out of its range.
    """
    checks.images(x)
    for size in batches:
        checks.at_least("batch", size, 1)
    checks.at_least("runs", runs, 1)
    checks.at_least("least", least, 1)
    checks.at_least("warmup", warmup, 0)
    checks.in_range("seconds", seconds, 0)
    device = device_of(model)
    state = [device] if device.type == "cuda" else []
    measured = []
    with torch.random.fork_rng(state), torch.no_grad(), frozen(model):
        for size in batches:
            batch = x[torch.arange(size) % len(x)].contiguous()
            carried = _transfer(batch, device)
            batch = batch.to(device)
            memory = {name: _memory(part, batch) for name, part in parts(model).items()}
            for _ in _rounds(warmup, 0, seconds):
                for part in parts(model).values():
                    part(batch)
            taken: dict[str, list[float]] = {name: [] for name in parts(model)}
            for _ in _rounds(runs, least, seconds):
                for name, part in parts(model).items():
                    taken[name].append(_timed(partial(part, batch), device))
            measured += [
                Latency(
                    part=name,
                    batch=size,
                    seconds=tuple(times),
                    memory=memory[name],
                    transfer=carried,
                    device=_called(device),
                    threads=torch.get_num_threads(),
                )
                for name, times in taken.items()
            ]
    return measured


def rows(case: str, measured: Sequence[Latency], *, seed: int = 0) -> list[Row]:
    """Rows of the result table, in seconds and bytes.

    ``latencyBATCH`` is the median time of an image through the whole at that size of batch,
    ``latencyBATCH:p99`` what 99 of 100 runs do not exceed, ``latencyBATCH:guard`` and
    ``latencyBATCH:classifier`` the medians of the parts, ``memory:BATCH`` what a pass holds at
    once; ``ratio:classifier`` is ``costs.ratio`` at batch 64, where it was measured.
    """
    numbers = {}
    for one in measured:
        name = f"latency{one.batch}"
        if one.part == "whole":
            numbers[name] = one.each
            numbers[f"{name}:p99"] = one.p99 / one.batch
            numbers[f"memory:{one.batch}"] = float(one.memory)
        else:
            numbers[f"{name}:{one.part}"] = one.each
    if (times := ratio(measured, BATCH)) is not None:
        numbers["ratio:classifier"] = times
    return [number_row(case, seed, name, value) for name, value in numbers.items()]


def _rounds(count: int, least: int, seconds: float) -> Iterator[int]:
    """Number the rounds; beyond ``least`` they end when the time is over."""
    end = time.perf_counter() + seconds
    for k in range(count):
        if k >= least and time.perf_counter() > end:
            return
        yield k


def _timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _transfer(batch: Tensor, device: torch.device) -> float:
    """Median seconds from ordinary memory to the device; the first time does not count."""
    if device.type == "cpu":
        return 0.0
    batch = batch.cpu()
    return float(np.median([_timed(partial(batch.to, device), device) for _ in range(6)][1:]))


def _memory(part: nn.Module, batch: Tensor) -> int:
    """Bytes that a pass holds at once at most, beside what was there before."""
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
        torch.cuda.reset_peak_memory_stats(batch.device)
        before = torch.cuda.memory_allocated(batch.device)
        part(batch)
        torch.cuda.synchronize(batch.device)
        return torch.cuda.max_memory_allocated(batch.device) - before
    known = [batch, *part.parameters(), *part.buffers()]
    seen = _Allocations(known)
    with seen:
        part(batch)
    return seen.peak


class _Allocations(TorchDispatchMode):
    """Bytes of the tensors that operations make and that live at once.

    Args:
        known: tensors whose memory was there before.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:  # else a view, or written in place
            self._seen.add(storage)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._end, storage.nbytes())

    def _end(self, size: int) -> None:
        self.alive -= size


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
