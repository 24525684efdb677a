"""``bezoar train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bezoar.cli import options


def train(
    kind: Annotated[
        str,
        typer.Argument(help="Network, NAME or NAME:FIELD=VALUE,... (bezoar list).", metavar="NAME"),
    ],
    out: Annotated[Path, typer.Option(help="Model file to write, NAME.safetensors.")],
    data: options.Data = "digits",
    epochs: Annotated[int, typer.Option(min=1, help="Budget.")] = 15,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: constant, cosine.")
    ] = "constant",
    patience: Annotated[
        int, typer.Option(min=1, help="Stop after so many epochs without a better validation.")
    ] = 5,
    shift: options.Shift = 0,
    flip: options.Flip = False,
    init: Annotated[
        Path | None,
        typer.Option(help="Model file of the same network: start from its weights that fit."),
    ] = None,
    freeze: Annotated[
        str,
        typer.Option(help="Parts that do not learn, with commas, e.g. conv1,conv2 or features.0."),
    ] = "",
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Train one of the built-in networks; the best epoch on validation is kept.

    A training that is interrupted goes on when the same command is given again.

    Example: bezoar train lenet-fig3 --data mnist --epochs 5 --out lenet.safetensors
    """
    from bezoar import checkpoints, making, recipes
    from bezoar.cli import screen, subject
    from bezoar.training import Training

    subject.threads(threads)
    training = Training(
        epochs=epochs,
        batch=batch,
        lr=lr,
        schedule=schedule,
        patience=patience,
        shift=shift,
        flip=flip,
    )
    name, fields = recipes.network(kind)
    subject.writable(out)
    whole = subject.dataset(data, data_root, image_size)
    with screen.screen() as bars:
        log = making.trained(
            out,
            name,
            whole,
            training,
            seed=seed,
            fields=fields,
            init=init,
            freeze=[part.strip() for part in freeze.split(",") if part.strip()],
            on_step=bars.on_step,
        )
    record: Any = checkpoints.header(out).training
    if init is not None:
        rest = ", ".join(record["init"]["not taken over"]) or "none"
        print(f"not taken over from {init.name}: {rest}")
    best = max(row["clean"] for row in log)
    epochs_done = f"{log[-1]['round']:.0f} epochs"
    print(f"{kind} on {whole.name}: validation accuracy {best:.4f} after {epochs_done}")
    print(f"model: {out}")
