"""Pictures of a backdoor repair: the trigger on test images, and what stands in for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bezoar.report import figures
from bezoar.report.backdoor_record import Answers, Cured, Patch
from bezoar.report.exhibits import png
from bezoar.report.figures import Pixels
from bezoar.report.record import CASES, Record

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model said of an image, and what that is: ``right``, ``wanted`` or ``wrong``."""

    name: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A test image without and with the trigger, and what was said of both.

    Attributes:
        index: its position in the source.
        label, wanted: names of its class and of the one that the attacker wants.
        clean, change, stamped: the pictures.
        factor: that by which the change is enlarged.
        said: by case, of the image without and with the trigger.
    """

    index: int
    label: str
    wanted: str
    clean: str
    change: str
    stamped: str
    factor: float
    said: Mapping[str, tuple[Said, Said]]


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A trigger on one image: the change, enlarged, and the image with it; and its own parts."""

    change: str
    factor: float
    stamped: str
    parts: tuple[tuple[str, str], ...] = ()
    note: str = ""


def worked(answers: Answers) -> NDArray[np.bool_]:
    """Which images the sick model named rightly without the trigger, and as wanted with it."""
    return answers.stood("before", trigger=False) & answers.led("before")


def exhibits(record: Record, answers: Answers) -> list[Shown]:
    """The pictures that are kept, with what was said of them."""
    shown = []
    for k, place in enumerate(answers.shown.tolist()):
        x, stamped = answers.picture(k)
        change, factor = figures.perturbation(x, stamped)
        true, wanted = int(answers.true[place]), int(answers.wanted[place])
        said = {
            case: (
                _said(record, int(answers.plain[case][place]), true, wanted),
                _said(record, int(answers.stamped[case][place]), true, wanted),
            )
            for case in CASES
        }
        shown.append(
            Shown(
                index=int(answers.index[place]),
                label=record.class_name(true),
                wanted=record.class_name(wanted),
                clean=png(x),
                change=png(change),
                stamped=png(stamped),
                factor=factor,
                said=said,
            )
        )
    return shown


def _said(record: Record, number: int, true: int, wanted: int) -> Said:
    outcome = "right" if number == true else "wanted" if number == wanted else "wrong"
    return Said(name=record.class_name(number), outcome=outcome)


def true_trigger(answers: Answers) -> Stand:
    """The true trigger, on the first of the pictures."""
    x, stamped = answers.picture(0)
    return _stand(x, stamped)


def found_trigger(cured: Cured) -> Stand | None:
    """What the repair found, on the image that shows the true trigger."""
    found = cured.found
    if found is None:
        return None
    x, _ = cured.answers.picture(0)
    stand = _stand(x, found.stamp(x))
    if isinstance(found, Patch):
        mask = np.broadcast_to(found.mask, x.shape)
        size, of = float(mask.mean(axis=0).sum()), mask[0].size
        named = {
            "mask": mask,
            "pattern": found.pattern,
            f"mask {TIMES} pattern": mask * found.pattern,
        }
        own = tuple((name, png(np.asarray(part, np.float32))) for name, part in named.items())
        note = f"A patch. The mask is white where the pattern covers: {size:.1f} of {of:,} pixels."
        return replace(stand, parts=own, note=note)
    delta, factor = figures.perturbation(np.zeros_like(x), found.delta)
    largest = float(np.abs(found.delta).max())
    note = f"A perturbation: at most {largest:.3g} is added or taken, of pixel values in [0, 1]."
    return replace(stand, parts=((f"delta {TIMES} {factor:.3g}", png(delta)),), note=note)


def _stand(x: Pixels, stamped: Pixels) -> Stand:
    change, factor = figures.perturbation(x, stamped)
    return Stand(change=png(change), factor=factor, stamped=png(stamped))
