"""``bezoar certify``."""

from pathlib import Path
from typing import Annotated

import typer

from bezoar.cli import options


def certify(
    model: Annotated[
        Path,
        typer.Argument(help="Model that `guard fit --with smoothing` wrote.", metavar="MODEL"),
    ],
    data: options.Data = "digits",
    images: Annotated[
        int, typer.Option(min=0, help="How many test images, the first ones; 0 is all.")
    ] = 500,
    samples: Annotated[int, typer.Option(min=1, help="Draws of the noise an image.")] = 10_000,
    alpha: Annotated[
        str, typer.Option(help="Probability with which the certificate of an image may be wrong.")
    ] = "0.001",
    radii: Annotated[
        str, typer.Option(help="L2 radii to report, in pixel units of [0, 1], with commas.")
    ] = "0,0.25,0.5,0.75,1",
    out: options.Out = None,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Prove within which L2 radius the answers of a smoothed model hold.

    One that is interrupted goes on when the same command is given again.

    Example: bezoar certify smoothed.safetensors --data mnist --images 500 --samples 10000
    """
    from bezoar import certificates, checks, experiments
    from bezoar.cli import screen, subject

    subject.threads(threads)
    level = checks.number("--alpha", alpha)
    asked = sorted({checks.number("--radii", part) for part in radii.split(",") if part.strip()})
    if not asked:
        raise ValueError(f"--radii={radii!r}: expected at least one")
    for radius in asked:
        checks.in_range("--radii", radius, 0)
    named = subject.subject(model, None, None)
    smoothed = certificates.require(named.model, level)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(named, whole, images)
    settings = {"samples": samples, "alpha": level, "radii": asked}
    run = subject.opened(out, "certify", named, whole, tested, seed, settings)
    with screen.screen() as bars:
        results = experiments.certified(
            run,
            smoothed,
            tested,
            radii=asked,
            n=samples,
            alpha=level,
            seed=seed,
            on_unit=bars.on_unit,
        )
    screen.before_after(results, ["before"])
    print(f"curve: {run.path}/certified.svg")
