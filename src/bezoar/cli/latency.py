"""``bezoar latency``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def latency(
    model: Annotated[
        Path, typer.Argument(help="Model file written by bezoar (.safetensors).", metavar="MODEL")
    ],
    data: options.Data = "digits",
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Images in a pass; may be given several times. Without it: 1 and 64."),
    ] = None,
    runs: Annotated[int, typer.Option(help="Timed passes of each part.")] = 100,
    seconds: Annotated[
        float,
        typer.Option(help="A size of batch that takes longer gets fewer passes, at least 5."),
    ] = 30.0,
    out: Annotated[
        Path | None, typer.Option("--json", help="Results file to write, NAME.json.")
    ] = None,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Measure what a guard costs: the model, its guard and its classifier, timed in turn.

    Example: bezoar latency guarded.safetensors --data mnist --batch 1 --batch 64 --threads 1
    """
    from dataclasses import asdict

    from bezoar import audit
    from bezoar import latency as timing
    from bezoar.cli import screen, subject
    from bezoar.files import write_json
    from bezoar.runs import provenance

    subject.threads(threads)
    sizes = tuple(dict.fromkeys(batch or (1, timing.BATCH)))
    if out is not None:
        subject.writable(out, "--json", ".json")
    named = subject.subject(model, None, None)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(named, whole, max(sizes))
    x, _ = tested.batch(slice(None))
    measured = timing.latency(named.model, x, batches=sizes, runs=runs, seconds=seconds)
    if out is not None:
        table = audit.results(provenance(subject.command()), timing.rows(model.stem, measured), {})
        write_json(out, {**table, "latency": [asdict(one) for one in measured]})
    screen.latencies(f"{model.name} on {tested.name}", measured)
    if out is not None:
        print(f"results: {out}")
