"""``bezoar backdoor``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options

app = typer.Typer(
    help="Plant a backdoor in a model, to test what finds and removes it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def backdoor() -> None:
    """Plant a backdoor in a model, to test what finds and removes it."""


@app.command("plant")
def plant(
    kind: Annotated[
        str,
        typer.Argument(help="Network, NAME or NAME:FIELD=VALUE,... (bezoar list).", metavar="NAME"),
    ],
    out: Annotated[Path, typer.Option(help="Model file to write, NAME.safetensors.")],
    trigger: Annotated[
        str, typer.Option("--with", help="Trigger, NAME or NAME:FIELD=VALUE,... (bezoar list).")
    ] = "badnets",
    target: Annotated[
        str,
        typer.Option(
            help="Class of the triggered images: its name or number, or `next`, each class to the "
            "one after it."
        ),
    ] = "0",
    rate: Annotated[str, typer.Option(help="Share of the training images that is poisoned.")] = (
        "0.1"
    ),
    clean: Annotated[
        Path | None,
        typer.Option(help="Clean model file, for a trigger that is fitted on one (lf)."),
    ] = None,
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
    images: Annotated[
        int, typer.Option(min=0, help="How many test images it is measured on; 0 is all.")
    ] = 0,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Train a network on poisoned images, and measure its backdoor on test images.

    Beside the model, OUT.backdoor.safetensors says what only the attacker knows: the trigger and
    the poisoned rows. A training that is interrupted goes on when the same command is given again.

    Example: bezoar backdoor plant lenet-fig3 --with badnets --rate 0.1 --out sick.safetensors
    """
    from bezoar import backdoors, checkpoints, checks, planted, recipes
    from bezoar.cli import screen, subject
    from bezoar.training import Training
    from bezoar.triggers import Trigger

    subject.threads(threads)
    training = Training(epochs=epochs, batch=batch, lr=lr, schedule=schedule, patience=patience)
    name, fields = recipes.network(kind)
    made: Trigger = recipes.method(Trigger, trigger, "--with")
    share = checks.number("--rate", rate)
    subject.writable(out)
    whole = subject.dataset(data, data_root, image_size)
    aim = subject.aim(target, whole)
    tested = whole.test.at_most(images)
    other = None
    if clean is not None:
        other = subject.subject(clean, None, None)
        subject.tested(other, whole, 0)
    with screen.screen() as bars:
        log = planted.plant(
            out,
            name,
            whole,
            training,
            made,
            aim,
            rate=share,
            seed=seed,
            network=fields,
            clean=other.model if other else None,
            on_step=bars.on_step,
        )
    secret = planted.read(out)
    shown = backdoors.triggered(tested, secret.trigger, secret.aim)
    found = backdoors.measure(checkpoints.load(out).model, tested, shown, seed=seed)
    poisoned = f"{len(secret.rows)} images poisoned" if len(secret.rows) else "poisoned in the loop"
    print(f"{kind} on {whole.name} with {trigger}: {poisoned}, {log[-1]['round']:.0f} epochs")
    print(f"clean accuracy: {found.accuracy}")
    print(f"triggered images where the attacker wants them: {found.asr}")
    print(f"triggered images named rightly: {found.ra}")
    print(f"model: {out}")
    print(f"what the attacker knows: {planted.beside(out)}")
