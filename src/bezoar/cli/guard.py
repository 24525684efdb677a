"""``bezoar guard``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options

app = typer.Typer(
    help="Put a guard in front of a model; what comes out is a model for every other verb.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("fit")
def fit(
    model: Annotated[
        Path, typer.Argument(help="Model file written by bezoar (.safetensors).", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Option(help="Model file to write, NAME.safetensors.")],
    method: Annotated[
        str, typer.Option("--with", help="Guard, NAME or NAME:FIELD=VALUE,... (bezoar list).")
    ] = "cae",
    inner: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack that the guard is trained against, NAME:FIELD=VALUE,...; may be given "
            "several times."
        ),
    ] = None,
    data: options.Data = "digits",
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Train a guard for a model, on training and validation images.

    One that is interrupted goes on when the same command is given again.

    Example: bezoar guard fit m.safetensors --inner fgsm:eps=0.6 --data mnist --out g.safetensors
    """
    from bezoar import experiments, recipes
    from bezoar.cli import screen, subject
    from bezoar.guards import Guard

    subject.threads(threads)
    subject.once(inner, method)
    more = {"inner": inner} if inner else {}
    made: Guard = recipes.method(Guard, {**recipes.parsed(method, "--with"), **more}, "--with")
    subject.writable(out)
    named = subject.subject(model, None, None)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    subject.tested(named, whole, 0)
    with screen.screen() as bars:
        log = experiments.guarded(out, named.model, whole, made, seed=seed, on_step=bars.on_step)
    kept = max(log[1:] or log, key=lambda row: row.get("score", row["clean"]))
    shown = {"clean": "clean", "robust": "attacked"}
    found = ", ".join(f"{word} {kept[name]:.4f}" for name, word in shown.items() if name in kept)
    print(f"{method} before {model.name} on {whole.name}, validation: {found}")
    print(f"model: {out}")


@app.command("apply")
def apply(
    guard: Annotated[Path, typer.Argument(help="Guarded model that `guard fit` wrote.")],
    model: Annotated[Path, typer.Argument(help="Model file that the guard is to stand before.")],
    out: Annotated[Path, typer.Option(help="Model file to write, NAME.safetensors.")],
) -> None:
    """Take the guard of one model and put it in front of another.

    Example: bezoar guard apply guarded.safetensors other.safetensors --out both.safetensors
    """
    from bezoar import experiments
    from bezoar.cli import subject

    subject.writable(out)
    experiments.moved_guard(guard, model, out)
    print(f"model: {out}")
