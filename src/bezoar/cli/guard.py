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
    from bezoar import making, recipes
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
        log = making.guarded(out, named.model, whole, made, seed=seed, on_step=bars.on_step)
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
    from bezoar import making
    from bezoar.cli import subject

    subject.writable(out)
    making.moved_guard(guard, model, out)
    print(f"model: {out}")


@app.command("compare")
def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Model files: guarded ones, and the network alone.", metavar="MODEL..."
        ),
    ],
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="Attack, NAME:FIELD=VALUE,...; may be given several times."),
    ] = None,
    access: Annotated[
        list[str] | None,
        typer.Option(
            help="What the attacker knows: adaptive, greybox, bpda, transfer; may be given several "
            "times, and is all that there are otherwise."
        ),
    ] = None,
    surrogate: Annotated[
        Path | None, typer.Option(help="Model file of an attacker who has none of ours.")
    ] = None,
    data: options.Data = "digits",
    images: options.Images = 0,
    draws: Annotated[
        int, typer.Option(min=1, help="Passes that an answer of a random model is averaged over.")
    ] = 20,
    out: options.Out = None,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Compare guards: every attack on each, by who ignores the guard and by who knows it.

    Writes results.json into the run folder; what is measured is kept, so the same command goes on.

    Example: bezoar guard compare net.safetensors guarded.safetensors --data mnist --images 500
    """
    from itertools import combinations

    from bezoar import experiments, recipes
    from bezoar.cli import screen, subject
    from bezoar.matrix import Look

    subject.threads(threads)
    chosen = [recipes.attack(text) for text in attacks or ["fgsm:eps=0.1", "pgd:eps=0.1"]]
    ways = subject.accesses(access or [], surrogate)
    looks = [Look(attack, way, draws) for attack in chosen for way in ways]
    for first, second in combinations(models, 2):
        if first.stem == second.stem:
            raise ValueError(f"{first} and {second}: expected names that differ, for the table")
    named = [subject.subject(path, None, None) for path in models]
    whole = subject.dataset(data, data_root, image_size, named[0].shape)
    tested = subject.tested(named[0], whole, images)
    other = subject.subject(surrogate, None, None) if surrogate else None
    for one in (*named[1:], *([other] if other else [])):
        subject.tested(one, whole, images)
    about = {"attacks": [repr(look) for look in looks], "models": [one.about for one in named]}
    if other:
        about["surrogate"] = [other.about]
    run = subject.opened(out, "compare", named[0], whole, tested, seed, about)
    cases = {path.stem: one.model for path, one in zip(models, named, strict=True)}
    with screen.screen() as bars:
        results = experiments.compared(
            run,
            cases,
            looks,
            tested,
            seed=seed,
            other=other.model if other else None,
            on_unit=bars.on_unit,
        )
    screen.before_after(results, list(cases))
    print(f"results: {run.path / 'results.json'}")
