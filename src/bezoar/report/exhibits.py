"""The gallery: images that were fooled, chosen by rule and not by eye."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from bezoar.report import figures, findings
from bezoar.report.figures import Pixels
from bezoar.report.findings import Headline
from bezoar.report.record import CASES, Record

GALLERY = 12  # images shown


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image under attack, for one case: the change, the result and what the model said."""

    case: str
    change: str
    factor: float
    adversarial: str
    clean_said: str
    clean_right: bool
    said: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A gallery entry: a clean image, its class, and the attacks on it."""

    index: int
    label: str
    clean: str
    shots: tuple[Shot, ...]


def exhibits(record: Record, found: Headline | None) -> list[Exhibit]:
    """The first images that the strongest attack fooled, with what became of them.

    Raises:
        ValueError: attacked images of another shape than the clean ones.
    """
    if not found or not record.clean:
        return []
    metric = findings.strongest(record, found)
    measured = [record.of(case)[metric] for case in CASES if metric in record.of(case)]
    shown = []
    for index in findings.fooled(measured[0], found.eps, GALLERY):
        x = record.clean.image(index)
        if x is None:
            continue
        shots = []
        label = -1
        for one in measured:
            x_adv = one.adversarial(index)
            if x_adv is None:
                continue
            if x_adv.shape != x.shape:
                expected = f"expected {x.shape}, the shape of the clean image"
                raise ValueError(f"{one.case}/{metric}: x_adv of shape {x_adv.shape}: {expected}")
            row = int((one.facts.index == index).nonzero()[0][0])
            label = int(one.facts.label[row])
            said, clean_said = int(one.facts.adversarial[row]), int(one.facts.clean[row])
            change, factor = figures.perturbation(x, x_adv)
            shots.append(
                Shot(
                    case=one.case,
                    change=png(change),
                    factor=factor,
                    adversarial=png(x_adv),
                    clean_said=record.class_name(clean_said),
                    clean_right=clean_said == label,
                    said=record.class_name(said),
                    right=said == label,
                )
            )
        name = record.class_name(label)
        shown.append(Exhibit(index=index, label=name, clean=png(x), shots=tuple(shots)))
    return shown


def png(image: Pixels) -> str:
    """The image as a data URI."""
    file = io.BytesIO()
    Image.fromarray(figures.picture(image)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
