"""``bezoar check``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def check(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", help="Model file; without it the models that the run folder holds."
        ),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(help="Your own network, module:function: code that is run; with --weights."),
    ] = None,
    weights: options.Weights = None,
) -> int:
    """Predict a run's adversarial images again, also rounded to 8 bits, without attacking.

    Exit code 1 when anything recorded differs from what is found.

    Example: bezoar check runs/demo --model runs/demo/after.safetensors
    """
    from bezoar.cli import subject
    from bezoar.runs import check as checking

    if model or factory or weights:
        named = [(subject.subject(model, factory, weights).model, str(model or factory))]
    else:
        named = [
            (subject.subject(path, None, None).model, path.name) for path in checking.models(run)
        ]
    agree = True
    for classifier, name in named:
        for line in checking.check(run, classifier):
            print(f"{name}: {line.text}")
            agree = agree and line.agrees
    print("everything that was recorded is found again" if agree else "the record does not hold")
    return int(not agree)
