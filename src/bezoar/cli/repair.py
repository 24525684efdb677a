"""``bezoar repair``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bezoar.cli import options

if TYPE_CHECKING:
    from bezoar.cli.subject import Subject
    from bezoar.data.imageset import DataSet, ImageSet
    from bezoar.repairs import Repair


def repair(
    model: options.Model = None,
    data: options.Data = "digits",
    method: Annotated[
        str,
        typer.Option("--with", help="Repair, NAME or NAME:FIELD=VALUE,... (bezoar list)."),
    ] = "correct",
    backdoor: Annotated[
        Path | None,
        typer.Option(
            help="Planted model file: measure its backdoor before and after, instead of attacks."
        ),
    ] = None,
    spc: Annotated[
        int,
        typer.Option(
            min=0, help="With --backdoor: images of each class that the repair may see; 0 is all."
        ),
    ] = 0,
    inner: Annotated[
        str | None,
        typer.Option(help="Attack inside `correct`; by default PGD with 5 steps at --eps."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Budget of the repair.")] = 10,
    target: Annotated[
        str, typer.Option(help="Robust accuracy on validation at which the repair stops.")
    ] = "0.95",
    eps: options.Eps = "0.1",
    curve: options.Curve = "0.05,0.1,0.2,0.3",
    attacks: options.Attacks = None,
    factory: options.Factory = None,
    weights: options.Weights = None,
    images: options.Images = 0,
    floor: options.Floor = "0.9",
    out: options.Out = None,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> int:
    """Repair a model, and attack it before and after.

    The repair sees training and validation images only; the attacks get the test images. Exit
    code 1 when the repaired model's worst-case robust accuracy is not above --floor for sure.

    With --backdoor the exit code is 0 whatever is found.

    Example: bezoar repair lenet.safetensors --data mnist --eps 0.1 --out runs/mine
    """
    from bezoar import experiments
    from bezoar.cli import screen, subject

    subject.threads(threads)
    plan = subject.plan(eps, curve, attacks, floor, seed)
    chosen = subject.method(method, inner, plan.eps, rounds, target)
    named = subject.subject(model, factory, weights)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(named, whole, images)
    if backdoor is not None:
        return _of_backdoor(out, named, whole, tested, chosen, backdoor, spc, seed)
    if spc:
        raise ValueError(f"--spc={spc}: expected with --backdoor only")
    run = subject.opened(
        out, "repair", named, whole, tested, seed, experiments.settings(plan, chosen)
    )
    with screen.screen() as bars:
        results = experiments.repair(
            run,
            named.model,
            whole,
            chosen,
            plan,
            kept=tested,
            on_step=bars.on_step,
            on_unit=bars.on_unit,
        )
    screen.before_after(results, ["before", "after"])
    screen.closing(results, run.path)
    return int(results["verdict"]["well"]["outcome"] != "met")


def _of_backdoor(
    out: Path | None,
    named: "Subject",
    whole: "DataSet",
    tested: "ImageSet",
    method: "Repair",
    backdoor: Path,
    spc: int,
    seed: int,
) -> int:
    from bezoar import cures, planted
    from bezoar.cli import screen, subject

    secret = planted.read(backdoor)
    given = cures.evidence(whole, secret, cures.poisoned(whole, secret), spc, seed=seed)
    settings = {"repair": repr(method), "backdoor": secret.about, "spc": spc}
    run = subject.opened(out, "repair", named, whole, tested, seed, settings)
    with screen.screen() as bars:
        results = cures.cure(
            run,
            named.model,
            whole,
            method,
            given,
            secret,
            tested,
            seed=seed,
            on_step=bars.on_step,
            on_unit=bars.on_unit,
        )
    screen.before_after(results, ["before", "after"])
    print(f"repaired model: {run.path / 'after.safetensors'}")
    print(f"report: {run.path / 'report.html'}")
    return 0
