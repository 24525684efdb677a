"""Checks of values that come from outside; one form: *name=value: expected what*."""

import difflib
import math
from collections.abc import Iterable

import torch
from torch import Tensor


def images(x: Tensor, name: str = "images") -> None:
    """Require a batch of images: ``(N, C, H, W)`` float32 or float64 with values in [0, 1].

    Raises:
        ValueError: other shape or dtype, or a value that is NaN or outside [0, 1].
    """
    if x.ndim != 4 or x.dtype not in (torch.float32, torch.float64):
        found = f"shape {tuple(x.shape)} and dtype {x.dtype}"
        raise ValueError(f"{name} of {found}: expected (N, C, H, W) float32")
    if not x.numel():
        raise ValueError(f"{name} of shape {tuple(x.shape)}: expected at least one image")
    low, high = (value.item() for value in x.aminmax())
    if not (low >= 0 and high <= 1):  # also true for NaN
        hint = "; divide by 255" if 1 < high <= 255 else ""
        raise ValueError(f"{name} with values in [{low:g}, {high:g}]: expected [0, 1]{hint}")


def labels(y: Tensor, classes: int, name: str = "labels") -> None:
    """Require int64 class numbers ``(N,)`` in 0 .. classes - 1."""
    if y.ndim != 1 or y.dtype != torch.int64:
        found = f"shape {tuple(y.shape)} and dtype {y.dtype}"
        raise ValueError(f"{name} of {found}: expected (N,) int64")
    if not y.numel():
        return
    low, high = (int(value) for value in y.aminmax())
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        raise ValueError(f"{name} hold class {worst}: expected 0 to {classes - 1}")


def in_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Require a finite number in [low, high]."""
    if not (math.isfinite(value) and low <= value <= high):
        span = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name}={value!r}: expected a number {span}")


def radius(name: str, value: float) -> None:
    """Require the radius of a ball: a number at least 0, or infinity for no ball at all."""
    if not value >= 0:  # also true for NaN
        raise ValueError(f"{name}={value!r}: expected a number at least 0")


def at_least(name: str, value: int, low: int) -> None:
    """Require an integer that is not below ``low``, and one that a tensor can count with."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r}: expected an integer >= {low}")
    if value >= 2**31:
        raise ValueError(f"{name}={value!r}: expected an integer below 2**31")


def known(what: str, name: str, names: Iterable[str]) -> None:
    """Require ``name`` to be one of ``names``; guess at what was meant where it is not."""
    names = sorted(names)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{what} {name!r}: expected one of {', '.join(names)}{hint}")


def one_of(name: str, value: int, values: Iterable[int]) -> None:
    """Require an integer to be one of some."""
    if value not in (given := sorted(values)):
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(str, given))}")


def number(name: str, text: str | float) -> float:
    """Read a number that may be written as a fraction.

    >>> number("eps", "8/255") == 8 / 255
    True
    """
    if not isinstance(text, str):
        return float(text)
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        expected = "expected a number such as 0.1 or a fraction such as 8/255"
        raise ValueError(f"{name}={text!r}: {expected}") from None
