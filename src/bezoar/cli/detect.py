"""``bezoar detect``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bezoar.cli import options

if TYPE_CHECKING:
    from bezoar import detection


def detect(
    model: options.Model = None,
    data: options.Data = "digits",
    attack: Annotated[
        str,
        typer.Option(help="Attack that can lead to a class, NAME or NAME:FIELD=VALUE,..."),
    ] = "pgd:eps=0.1",
    images: options.Images = 0,
    ranks: Annotated[
        int, typer.Option(min=1, help="How many wrong classes who knows the detector leads to.")
    ] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Figure of the ROC to write, NAME.svg or NAME.png.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Table of the numbers to write, NAME.json.")
    ] = None,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    weights: options.Weights = None,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> None:
    """Measure a detector against who ignores it and against who evades it.

    MODEL is one that rejects images, as `guard fit --with squeezing` or `--with magnet` writes.

    Example: bezoar detect squeezed.safetensors --data mnist --attack pgd:eps=0.15 --images 500
    """
    from bezoar import detection, experiments, recipes
    from bezoar.cli import subject
    from bezoar.files import write_json

    subject.threads(threads)
    made = recipes.attack(attack)
    for name, path, endings in (("out", out, (".svg", ".png")), ("json", json, (".json",))):
        if path is not None and (path.suffix not in endings or not path.parent.is_dir()):
            expected = f"expected a file NAME{' or NAME'.join(endings)} in a folder that is there"
            raise ValueError(f"--{name}={path}: {expected}")
    named = subject.subject(model, factory, weights)
    detector = detection.require(named.model)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(named, whole, images)
    found = detection.detect(made, named.model, tested, seed=seed, ranks=ranks)
    print(f"{named.about['file']} on {tested.name}, threshold {float(detector.threshold):.4g}")
    print(f"clean images rejected: {found.clean.alarms}")
    lines = []
    for who, judged in (("ignores", found.unaware), ("knows", found.knowing)):
        print(f"who {who} the detector, {attack}")
        print(f"  right or rejected: {judged.standing}")
        curve = found.curve(judged)
        if curve is None or judged.caught is None:
            print("  no image is named wrongly")
            continue
        print(f"  rejected of those named wrongly: {judged.caught}")
        area = f"{curve.auc:.3f} [{curve.low:.3f}, {curve.high:.3f}]"
        print(f"  area under the ROC: {area} ({curve.clean} clean, {curve.attacked} wrong)")
        lines.append((f"who {who} it: {area}", curve, judged.caught.value))
    if json is not None:
        rows = experiments.detected(found, made, named.model, seed=seed)
        write_json(json, {"command": subject.command(), "rows": rows})
        print(f"table: {json}")
    if out is not None and lines:
        _draw(out, found.clean.alarms.value, lines)
        print(f"figure: {out}")


def _draw(out: Path, alarms: float, lines: "list[tuple[str, detection.Curve, float]]") -> None:
    from bezoar.files import replacing, write_text
    from bezoar.report import figures

    figure = figures.roc(
        [figures.Detector(label, c.fpr, c.tpr, (alarms, caught)) for label, c, caught in lines]
    )
    if out.suffix == ".svg":
        write_text(out, figures.svg(figure))
    else:
        with replacing(out) as unfinished:
            figure.savefig(unfinished, format="png", dpi=200, facecolor="white")
