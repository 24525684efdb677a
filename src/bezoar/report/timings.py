"""What a guarded model takes, for readers: one table on the screen and on the page."""

from collections.abc import Sequence

from bezoar.costs import Latency, ratio

HEAD = ("part", "batch", "median", "99 %", "an image", "images/s", "memory", "runs")


def where(measured: Sequence[Latency]) -> str:
    """Device and threads, and the way of a batch to the device where there is one."""
    one = measured[0]
    threads = f"{one.threads} {'thread' if one.threads == 1 else 'threads'}"
    ways = {each.batch: each.transfer for each in measured if each.transfer}
    carried = [f"{_duration(seconds)} for {batch}" for batch, seconds in ways.items()]
    told = f"; to the device, not counted: {', '.join(carried)}" if carried else ""
    return f"{one.device}, {threads}{told}"


def rows(measured: Sequence[Latency]) -> list[tuple[str, ...]]:
    """One row a part and size of batch, in the columns of ``HEAD``."""
    return [
        (
            one.part,
            f"{one.batch:,}",
            _duration(one.median),
            _duration(one.p99),
            _duration(one.each),
            f"{one.rate:,.0f}" if one.rate >= 10 else f"{one.rate:.2g}",
            _size(one.memory),
            str(one.runs),
        )
        for one in measured
    ]


def ratios(measured: Sequence[Latency]) -> list[str]:
    """How many times as long as the classifier alone the whole takes, a line a size of batch."""
    found = {batch: ratio(measured, batch) for batch in dict.fromkeys(m.batch for m in measured)}
    return [
        f"In batches of {batch} the whole takes {times:.2f} times as long as the classifier alone."
        for batch, times in found.items()
        if times is not None
    ]


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
