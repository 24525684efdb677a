"""``bezoar check``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def check(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model file, or MODULE:FUNCTION of your own network with --weights; without it "
            "the models that the run folder holds.",
        ),
    ] = None,
    weights: options.Weights = None,
) -> int:
    """Predict a run's adversarial images again, also rounded to 8 bits, without attacking.

    Exit code 1 when anything recorded differs from what is found, or nothing could be compared.

    Example: bezoar check runs/demo --model runs/demo/after.safetensors
    """
    from torch import nn

    from bezoar.cli import subject
    from bezoar.runs import check as checking

    named: list[tuple[nn.Module, str]]
    if model is None and weights is None:
        named = [
            (subject.subject(path, None, None).model, path.name) for path in checking.models(run)
        ]
    elif weights is None:
        named = [(subject.subject(Path(str(model)), None, None).model, str(model))]
    else:
        named = [(subject.subject(None, model, weights).model, str(model))]
    agree, there, compared = True, set[str](), set[str]()
    for classifier, name in named:
        for line in checking.check(run, classifier):
            print(f"{name}: {line.text}")
            agree = agree and line.agrees
            there.add(line.measurement)
            compared |= {line.measurement} if line.compared else set()
    # A model that the user names may be one of two; the models of the run must account for all.
    missed = there - compared if model is None else there if not compared else set()
    if not agree:
        print("the record does not hold")
    elif missed:
        print(f"not compared, for they were scored on other weights: {', '.join(sorted(missed))}")
    else:
        print("everything that was recorded of these weights is found again")
    return int(not agree or bool(missed))
