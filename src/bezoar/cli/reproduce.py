"""``bezoar reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def reproduce(
    name: Annotated[str, typer.Argument(help="Recipe, e.g. lenet-fgsm (bezoar list).")],
    size: Annotated[str, typer.Option(help="Size of the experiment: smoke, cpu.")] = "cpu",
    out: options.Out = None,
    results: Annotated[Path, typer.Option(help="Folder for the table, NAME.json.")] = Path(
        "results"
    ),
    pages: Annotated[Path, typer.Option(help="Folder for the page of the table, NAME.md.")] = Path(
        "docs/results"
    ),
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="Work on this network only, so that processes can share a run; may be given "
            "several times. The table is written by a run without it."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Work on this seed only, as with --network.")
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Do nothing; write the table of what is done, and name what is not."
        ),
    ] = False,
    data_root: options.DataRoot = None,
    threads: options.Threads = 0,
) -> None:
    """Run a published experiment: every case, seed by seed, into one table.

    Takes hours at its full size. What is done is kept: the same command goes on where it stopped.

    Example: bezoar reproduce lenet-fgsm --size smoke --results /tmp --pages /tmp
    """
    from bezoar import recipes
    from bezoar import reproduce as reproduction
    from bezoar.cli import screen, subject
    from bezoar.report import sheet
    from bezoar.runs import provenance

    subject.threads(threads)
    recipe = reproduction.read(recipes.find(name))
    folder = out or Path("runs") / f"{recipe.name}-{size}"
    notes = provenance(f"bezoar reproduce {recipe.name} --size {size}")
    with screen.screen() as bars:
        work = reproduction.Reproduction(
            recipe,
            size,
            folder,
            notes,
            root=data_root,
            only=network or (),
            seeds=seed or (),
            say=bars.say,
            on_step=bars.on_step,
        )
        table = work.table() if partial else work()
    if table is None:
        print("this part is done; the table is written without --network and --seed")
        return
    for path in sheet.write(table, recipe.name, results, pages):
        print(path)
