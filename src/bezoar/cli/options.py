"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        help="Data set: digits, mnist, fashion-mnist, cifar10, gtsrb, folder:PATH (one folder a "
        "class) or npz:PATH."
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="BEZOAR_DATA",
        help="Folder that holds the data sets; a missing one is downloaded into it.",
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH that the images of folder:PATH are resized to, e.g. 32x32."),
]
Images = Annotated[
    int, typer.Option(min=0, help="How many test images are attacked, the first ones; 0 is all.")
]
Model = Annotated[
    Path | None,
    typer.Argument(help="Model file written by bezoar (.safetensors).", metavar="MODEL"),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Your own network instead: module:function. The function is code, and it is run: "
        "name only modules that you trust.",
        metavar="MODULE:FUNCTION",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights for --model: .safetensors, or .pt that holds nothing but tensors."),
]
Eps = Annotated[
    str,
    typer.Option(help="Radius of the attacks in pixel units of [0, 1]; 8/255 is understood."),
]
Curve = Annotated[
    str, typer.Option(help="Further radii for the curve of accuracy against eps, with commas.")
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        help="Attack, NAME or NAME:FIELD=VALUE,...; may be given several times. Its radius is "
        "--eps, or none where it looks for the nearest image (deepfool, fmn, ...). Without it: "
        "FGSM and PGD-40 along the curve; PGD on the margin, Square and noise; PGD-40 at eps 1.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Class that the attacks lead to: its name or number, or `random`, drawn for each "
        "image. Images of that class are left out. Without it: any wrong class.",
    ),
]
LowPrecision = Annotated[
    bool,
    typer.Option(
        "--low-precision",
        help="Search in bfloat16 first. What it finds is judged in float32, and what it does not "
        "find is attacked again in float32: it pays where nearly all images fall.",
    ),
]
Surrogates = Annotated[
    list[Path] | None,
    typer.Option(
        "--surrogate",
        help="Another model file (.safetensors); may be given several times. All attacks are made "
        "on these too, and their images are shown to MODEL: transfer:NAME in tables.",
    ),
]
Floor = Annotated[
    str,
    typer.Option(help="Worst-case robust accuracy at eps that counts as healthy."),
]
Seed = Annotated[int, typer.Option(min=0, help="Names all randomness.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Run folder; made if missing, taken up where an earlier run stopped."),
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch. Bits may depend on it.")
]
Shift = Annotated[
    int, typer.Option(min=0, help="Move training images by up to so many pixels, each way.")
]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror half of the training images.")]
