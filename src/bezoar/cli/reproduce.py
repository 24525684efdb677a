"""``bezoar reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def reproduce(
    name: Annotated[str, typer.Argument(help="Recipe, e.g. lenet-fgsm (bezoar list).")],
    size: Annotated[str, typer.Option(help="Size of the experiment: smoke, cpu, full.")] = "cpu",
    out: options.Out = None,
    results: Annotated[Path, typer.Option(help="Folder for the table, NAME.json.")] = Path(
        "results"
    ),
    pages: Annotated[Path, typer.Option(help="Folder for the page of the table, NAME.md.")] = Path(
        "docs/results"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Work on this network, case of a guard, backdoor (DATA ATTACK) or repair of one "
            "(DATA ATTACK NAME SOURCE) only, so that processes can share a run; may be given "
            "several times. The table is written by a run without it."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Work on this seed only, as with --only.")
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Do nothing; write the table of what is done, and name what is not."
        ),
    ] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="With --partial: keep the rows that stand in the table of cases of guards, or of "
            "victims of backdoors, that are not done in this run, and say so.",
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
    from bezoar.files import replacing
    from bezoar.report import sheet
    from bezoar.runs import provenance

    if keep and not partial:
        raise ValueError("--keep: expected with --partial; a whole run has all rows of its own")
    subject.threads(threads)
    with screen.screen() as bars:
        work = reproduction.opened(
            recipes.find(name),
            size,
            out,
            provenance,
            root=data_root,
            only=only or (),
            seeds=seed or (),
            results=results,
            keep=keep,
            say=bars.say,
            on_step=bars.on_step,
        )
        table = work.table() if partial else work()
        figures = {} if table is None else work.figures()
    if table is None:
        print("this part is done; the table is written without --only and --seed")
        return
    for path in sheet.write(table, work.recipe.name, results, pages):
        print(path)
    for file, figure in figures.items():
        with replacing(pages / file) as unfinished:
            figure.savefig(unfinished, format="png", dpi=100, facecolor="white")
        print(pages / file)
