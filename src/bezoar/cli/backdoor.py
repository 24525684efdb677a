"""``bezoar backdoor``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bezoar.cli import options

if TYPE_CHECKING:
    from bezoar.scans import Finding

app = typer.Typer(
    help="Look for a backdoor in a model, or plant one to test what finds and removes it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def backdoor() -> None:
    """Look for a backdoor in a model, or plant one to test what finds and removes it."""


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
    shift: options.Shift = 0,
    flip: options.Flip = False,
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


@app.command("scan")
def scan(
    model: options.Model = None,
    method: Annotated[
        str, typer.Option("--with", help="Scan, NAME or NAME:FIELD=VALUE,... (bezoar list).")
    ] = "neural-cleanse",
    data: options.Data = "digits",
    spc: Annotated[
        int,
        typer.Option(min=1, help="Trusted images of each class, drawn from the train split."),
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write of the trigger that is found, NAME.png."),
    ] = None,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    weights: options.Weights = None,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> int:
    """Look for a backdoor in a model. The exit code is 1 where the scan accuses it.

    Example: bezoar backdoor scan sick.safetensors --with neural-cleanse --data mnist
    """
    from bezoar import recipes
    from bezoar.cli import screen, subject
    from bezoar.defence import few
    from bezoar.scans import ModelScan

    subject.threads(threads)
    made: ModelScan = recipes.method(ModelScan, method, "--with")
    if out is not None:
        subject.writable(out, suffix=".png")
    named = subject.subject(model, factory, weights)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    subject.tested(named, whole, 1)
    trusted = few(whole.train, spc, seed=seed, held=0).train
    with screen.screen() as bars:
        found = made(named.model, trusted, seed=seed, on_step=bars.on_step)
    sight = "without images" if made.blind else f"with {len(trusted)} images of {trusted.name}"
    print(f"{method} of {named.about['file']} {sight}")
    print(f"score: {found.score:.2f}, accused above {found.threshold:.2f}")
    if found.p_value is not None:
        print(f"p-value: {found.p_value:.2g}")
    print(f"passes: {found.cost.forward} forward, {found.cost.backward} backward")
    print(f"verdict: {'a backdoor' if found.accused else 'no backdoor found'}")
    if found.suspect is not None:
        print(f"suspected class: {whole.classes[found.suspect]}")
    if out is not None:
        print(f"picture: {_drawn(out, found)}")
    return int(found.accused)


@app.command("sift")
def sift(
    model: options.Model = None,
    method: Annotated[
        str,
        typer.Option("--with", help="Scan of data, NAME or NAME:FIELD=VALUE,... (bezoar list)."),
    ] = "scan-em",
    data: options.Data = "digits",
    backdoor: Annotated[
        Path | None,
        typer.Option(help="Planted model file: sift what it was trained on, and say how well."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, NAME.json: position, label and score of each image."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="How many training images are sifted; 0 is all.")
    ] = 0,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    weights: options.Weights = None,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> int:
    """Look for poison among training images, through a model that was trained on them.

    The validation split is what the scan trusts. The exit code is 1 where the scan accuses.

    Example: bezoar backdoor sift sick.safetensors --data mnist --backdoor sick.safetensors
    """
    from bezoar import backdoors, cures, planted, recipes
    from bezoar.cli import screen, subject
    from bezoar.files import write_json
    from bezoar.scans import DataScan

    subject.threads(threads)
    made: DataScan = recipes.method(DataScan, method, "--with")
    if out is not None:
        subject.writable(out, suffix=".json")
    named = subject.subject(model, factory, weights)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    subject.tested(named, whole, 1)
    suspects, rows = whole.train, None
    if backdoor is not None:
        secret = planted.read(backdoor)
        poisoned = cures.poisoned(whole, secret)
        if poisoned is None:
            found = f"--backdoor={backdoor}: a trigger that was stamped in the training loop"
            raise ValueError(f"{found}: expected one with a list of poisoned rows")
        suspects, rows = poisoned, secret.rows
    suspects = suspects.at_most(images)
    with screen.screen() as bars:
        finding = made(named.model, suspects, whole.validation, seed=seed, on_step=bars.on_step)
    assert finding.rows is not None  # of every scan of data
    assert finding.flagged is not None
    print(f"{method} of {suspects.name}, {len(suspects)} images, through {named.about['file']}")
    print(f"score: {finding.score:.2f}, accused above {finding.threshold:.2f}")
    print(f"verdict: {'poison' if finding.accused else 'no poison found'}")
    if finding.suspect is not None:
        print(f"suspected class: {whole.classes[finding.suspect]}")
    print(f"flagged images: {int(finding.flagged.sum())}")
    if rows is not None:
        told = backdoors.sifted(finding, rows[rows < len(suspects)])
        print(f"poison that is flagged: {told.caught}")
        print(f"other images that are flagged: {told.alarms}")
        print(f"area under the curve: {told.auc}")
    if out is not None:
        columns = {
            "index": suspects.index.tolist(),
            "label": suspects.labels.tolist(),
            "score": finding.rows.tolist(),
            "flagged": finding.flagged.tolist(),
        }
        write_json(out, {"format": 1, "scan": method, "data": suspects.name, **columns})
        print(f"scores: {out}")
    return int(finding.accused)


def _drawn(out: Path, found: "Finding") -> str:
    if found.mask is None or found.pattern is None:
        return "none, as no trigger was found"
    from bezoar.files import replacing
    from bezoar.report import figures

    mask, pattern = found.mask.numpy(), found.pattern.numpy()
    shown = [(mask, "mask"), (pattern, "pattern"), (mask * pattern, "on black")]
    figure = figures.pictures([shown])
    with replacing(out) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100, facecolor="white")
    return str(out)
