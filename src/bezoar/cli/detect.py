"""``bezoar detect``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bezoar.cli import options

if TYPE_CHECKING:
    from bezoar import detection, suspicion

    # What the legend says, the curve, and the share rejected at the threshold in use.
    Line = tuple[str, detection.Curve, float]


def detect(
    model: options.Model = None,
    data: options.Data = "digits",
    attack: Annotated[
        str | None,
        typer.Option(
            help="Attack that can lead to a class, NAME or NAME:FIELD=VALUE,...; without it "
            "pgd:eps=0.1, and none with --backdoor."
        ),
    ] = None,
    backdoor: Annotated[
        Path | None,
        typer.Option(
            help="Model file that `bezoar backdoor plant` wrote; test images get the trigger that "
            "is described beside it."
        ),
    ] = None,
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
    """Measure a detector: does it find attacked images, and triggered ones.

    MODEL is one that rejects images, as `guard fit --with squeezing`, `magnet`, `strip`,
    `scale-up` or `ibd-psc` writes. With --attack it meets one attacker who ignores it and one who
    evades it, with --backdoor the images that open a backdoor.

    Example: bezoar detect squeezed.safetensors --data mnist --attack pgd:eps=0.15 --images 500
    """
    from bezoar import audit, backdoors, detection, planted, recipes, suspicion
    from bezoar.cli import subject
    from bezoar.files import write_json

    subject.threads(threads)
    text = attack or ("" if backdoor else "pgd:eps=0.1")
    made = recipes.attack(text) if text else None
    for name, path, endings in (("out", out, (".svg", ".png")), ("json", json, (".json",))):
        _require_place(name, path, endings)
    secret = planted.read(backdoor) if backdoor else None
    named = subject.subject(model, factory, weights)
    detector = detection.require(named.model)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(named, whole, images)
    shown = backdoors.triggered(tested, secret.trigger, secret.aim) if secret else None
    found = seen = None
    if made:
        found = detection.detect(made, detector, tested, seed=seed, ranks=ranks)
    if shown:
        known = found.clean if found else None
        seen = suspicion.measure(detector, tested, shown, seed=seed, clean=known)
    clean = next(one.clean for one in (found, seen) if one)
    print(f"{named.about['file']} on {tested.name}, threshold {float(detector.threshold):.4g}")
    print(f"clean images rejected: {clean.alarms}")
    lines: list[Line] = []
    rows: list[audit.Row] = []
    if made and found:
        lines += _attacked(found, text)
        rows += audit.detected(found, made, detector, seed=seed)
    if secret and seen:
        lines += _triggered(seen, secret.about["trigger"]["name"])
        rows += [row for row in suspicion.rows(seen, detector, seed=seed) if row not in rows]
    if json is not None:
        write_json(json, {"command": subject.command(), "rows": rows})
        print(f"table: {json}")
    if out is not None and lines:
        _draw(out, clean.alarms.value, lines)
        print(f"figure: {out}")


def _require_place(name: str, path: Path | None, endings: tuple[str, ...]) -> None:
    if path is not None and (path.suffix not in endings or not path.parent.is_dir()):
        expected = f"expected a file NAME{' or NAME'.join(endings)} in a folder that is there"
        raise ValueError(f"--{name}={path}: {expected}")


def _attacked(found: "detection.Detection", attack: str) -> "list[Line]":
    lines = []
    for who, judged in (("ignores", found.unaware), ("knows", found.knowing)):
        print(f"who {who} the detector, {attack}")
        print(f"  right or rejected: {judged.standing}")
        curve = found.curve(judged)
        if curve is None or judged.caught is None:
            print("  no image is named wrongly")
            continue
        print(f"  rejected of those named wrongly: {judged.caught}")
        print(f"  area under the ROC: {_area(curve)} ({curve.clean} clean, {curve.attacked} wrong)")
        lines.append((f"who {who} it: {_area(curve)}", curve, judged.caught.value))
    return lines


def _triggered(found: "suspicion.Suspicion", trigger: str) -> "list[Line]":
    from bezoar.suspicion import FPRS

    print(f"images with the trigger {trigger}")
    print(f"  where the attacker wants them: {found.asr}")
    print(f"  where he wants them and not rejected: {found.accepted}")
    lines = []
    for what, successful in (("all triggered", False), ("where he wants them", True)):
        curve, caught = found.curve(successful=successful), found.caught(successful=successful)
        if curve is None or caught is None:
            continue
        print(f"  rejected, {what}: {caught}")
        for fpr in FPRS:
            print(f"    at {fpr:.0%} false alarms: {found.caught(fpr, successful=successful)}")
        print(f"    area under the ROC: {_area(curve)} ({curve.clean} clean, {curve.attacked})")
        lines.append((f"{what}: {_area(curve)}", curve, caught.value))
    return lines


def _area(curve: "detection.Curve") -> str:
    return f"{curve.auc:.3f} [{curve.low:.3f}, {curve.high:.3f}]"


def _draw(out: Path, alarms: float, lines: "list[Line]") -> None:
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
