"""The report's figures, for notebooks too: functions that return a ``matplotlib`` ``Figure``.

They keep no global state: no ``pyplot``, no change of ``rcParams`` that outlives the call. Lines
differ in dash and marker as well as in colour, so that they can be told apart in black and white.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from bezoar.report.tables import Cell

Pixels = NDArray[np.float32]

# Colour, dash and marker, by turns. Both colours hold on a white and on a dark page.
_LINES = (
    ("#d1622b", (0, (4, 2)), "o"),
    ("#2878b8", "solid", "s"),
    ("#4f9a4f", (0, (1, 1.5)), "^"),
    ("#8d6cc0", (0, (6, 2, 1, 2)), "D"),
)
_GREY = "#808080"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": "#404040",
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "#404040",
    "ytick.labelcolor": "#404040",
    "text.color": "#202020",
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold a $
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Curve:
    """Accuracy against the radius of an attack.

    Attributes:
        label: what the legend says.
        points: radius in pixel units and the accuracy there; at radius 0, clean accuracy.
    """

    label: str
    points: tuple[tuple[float, Cell], ...]


@dataclass(frozen=True)
class Detector:
    """How well scores tell attacked images from clean ones.

    Attributes:
        label: what the legend says.
        fpr: share of the clean images above each threshold, ``(T,)``, increasing.
        tpr: share of the attacked ones.
        point: both at the threshold in use.
    """

    label: str
    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    point: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clean image and its attacked version, both ``(C, H, W)`` in [0, 1]; and what was said."""

    x: Pixels
    x_adv: Pixels
    clean_title: str
    adversarial_title: str


def accuracy_curve(curves: Sequence[Curve]) -> Figure:
    """Accuracy against eps, a line and a band (the cells' intervals) for each curve.

    The lower axis is eps in pixel units of [0, 1], the upper one the same in n/255.

    Raises:
        ValueError: there is no curve, or one without a point.
    """
    if not curves or not all(curve.points for curve in curves):
        raise ValueError(f"curves={curves!r:.80}: expected at least one, each with a point")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            points = sorted(curve.points, key=lambda point: point[0])
            eps = [radius for radius, _ in points]
            cells = [cell for _, cell in points]
            low = [cell.value if cell.low is None else cell.low for cell in cells]
            high = [cell.value if cell.high is None else cell.high for cell in cells]
            colour, _, _ = _LINES[number % len(_LINES)]
            axes.fill_between(eps, low, high, color=colour, alpha=0.2, linewidth=0)
            _line(axes, eps, [cell.value for cell in cells], curve.label, number)
        axes.set(xlabel="eps, in pixel units of [0, 1]", ylabel="accuracy", ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        there_and_back = (lambda eps: np.multiply(eps, 255), lambda n: np.divide(n, 255))
        axes.secondary_xaxis("top", functions=there_and_back).set_xlabel("n, for eps = n/255")
        axes.legend(loc="best")
    return figure


def roc(detectors: Sequence[Detector]) -> Figure:
    """Attacked images rejected against clean ones rejected, a line for each, and chance.

    The marker is the threshold in use.

    Raises:
        ValueError: there is no line.
    """
    if not detectors:
        raise ValueError("detectors=[]: expected at least one")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
        for number, one in enumerate(detectors):
            colour, dash, marker = _LINES[number % len(_LINES)]
            line: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 1.6}
            axes.plot(one.fpr, one.tpr, label=one.label, **line)
            fill = colour if number % 2 else "none"
            x, y = one.point
            axes.plot([x], [y], color=colour, marker=marker, markerfacecolor=fill, clip_on=False)
        axes.set(xlabel="clean images rejected", ylabel="fooling images rejected")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right")
    return figure


def repair_progress(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Rates and losses by round, one small panel for each.

    Args:
        rows: the repair's log: ``round`` and any of ``clean``, ``robust``, ``loss``, ``clean_loss``
            and ``trigger_loss``.

    Raises:
        ValueError: no row has any of these.
    """
    panels = {
        "clean": "clean accuracy",
        "robust": "accuracy under attack",
        "loss": "loss",
        "clean_loss": "loss on clean images",
        "trigger_loss": "loss on triggered images",
    }
    shown = [name for name in panels if any(name in row for row in rows)]
    if not shown:
        raise ValueError(f"rows={rows!r:.80}: expected rounds with {', '.join(panels)}")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 0.5 + 1.35 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), sharex=True, squeeze=False)
        for axes, name in zip(grid[:, 0], shown, strict=True):
            logged = [row for row in rows if name in row]
            rounds = [row["round"] for row in logged]
            _line(axes, rounds, [row[name] for row in logged], name, number=1)
            axes.set_title(panels[name])
            axes.margins(y=0.15)
            if name in ("clean", "robust"):
                axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        grid[-1, 0].set_xlabel("round")
        grid[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def pruning_path(curves: Mapping[str, Sequence[Cell]]) -> Figure:
    """Rates after each filter that went, and apart from them those of the repaired model.

    Args:
        curves: by what the legend says, one cell before any filter went, one after each, and the
            last one of the repaired model; all of one length, 2 at least.

    Raises:
        ValueError: there is no curve, or one of another length.
    """
    lengths = {len(cells) for cells in curves.values()}
    if len(lengths) != 1 or min(lengths) < 2:
        found = {label: len(cells) for label, cells in curves.items()}
        raise ValueError(f"curves of lengths {found}: expected one length of 2 at least")
    went = lengths.pop() - 2
    end = went + max(1.0, 0.15 * went)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        for number, (label, cells) in enumerate(curves.items()):
            colour, _, marker = _LINES[number % len(_LINES)]
            low = [cell.value if cell.low is None else cell.low for cell in cells]
            high = [cell.value if cell.high is None else cell.high for cell in cells]
            values = [cell.value for cell in cells]
            x = list(range(went + 1))
            axes.fill_between(x, low[:-1], high[:-1], color=colour, alpha=0.2, linewidth=0)
            _line(axes, x, values[:-1], label, number)
            # Thin: nothing was measured between the last filter and the repaired model.
            axes.plot([went, end], values[-2:], color=colour, linewidth=0.8, clip_on=False)
            fill = colour if number % 2 else "none"
            last: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
            span = [[values[-1] - low[-1]], [high[-1] - values[-1]]]
            axes.errorbar(
                [end], values[-1:], yerr=span, **last, markerfacecolor=fill, clip_on=False
            )
        ticks = [tick for tick in MaxNLocator(5, integer=True).tick_values(0, went) if tick <= went]
        axes.set_xticks([*ticks, end], [*(f"{tick:.0f}" for tick in ticks), "end"])
        axes.set(xlabel="filters that went; end: the repaired model", ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="best")
    return figure


def gallery(images: Sequence[Example]) -> Figure:
    """A row an image: clean, perturbation, attacked. Grey or RGB.

    The perturbation is signed: middle grey is no change. It is enlarged so that the largest
    change of the row spans the scale, and the factor stands above it.

    Raises:
        ValueError: there is no image.
    """
    rows = []
    for example in images:
        change, factor = perturbation(example.x, example.x_adv)
        clean, attacked = example.clean_title, example.adversarial_title
        between = (change, f"change x{factor:.3g}")
        rows.append([(example.x, clean), between, (example.x_adv, attacked)])
    return pictures(rows)


def pictures(rows: Sequence[Sequence[tuple[Pixels, str]]]) -> Figure:
    """Rows of images ``(C, H, W)`` in [0, 1], grey or RGB, each with what stands above it.

    Raises:
        ValueError: there is no image.
    """
    if not rows or not rows[0]:
        raise ValueError("images=[]: expected at least one")
    with mpl.rc_context({**_STYLE, "axes.titlelocation": "center"}):
        figure = Figure(figsize=(1.6 * len(rows[0]), 1.8 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for places, row in zip(grid, rows, strict=True):
            for axes, (image, title) in zip(places, row, strict=True):
                axes.imshow(picture(image), vmin=0, vmax=255, cmap="grey", interpolation="nearest")
                axes.set_title(title, fontsize=9)
                axes.set_axis_off()
    return figure


def perturbation(x: Pixels, x_adv: Pixels) -> tuple[Pixels, float]:
    """The signed change as an image in [0, 1], and the factor that it is enlarged by.

    Middle grey (0.5) is no change; the largest change becomes 0 or 1. No change at all has
    factor 1.
    """
    change = x_adv - x
    largest = float(np.abs(change).max())
    factor = 1 / largest if largest else 1.0
    return np.asarray(0.5 + 0.5 * change * np.float32(factor), dtype=np.float32), factor


def picture(image: Pixels) -> NDArray[np.uint8]:
    """8-bit pixels of an image ``(C, H, W)`` in [0, 1]: ``(H, W, 3)`` or, grey, ``(H, W)``.

    With three channels it is RGB; with any other count the mean over the channels is shown.
    """
    shown = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
    return np.asarray(np.rint(255 * np.clip(shown, 0, 1)), dtype=np.uint8)


def svg(figure: Figure, name: str = "figure") -> str:
    """The figure as an SVG element: text stays text, and the same figure gives the same bytes.

    Args:
        figure: what to draw.
        name: put before all ids, so that several figures can stand on one page.
    """
    file = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "bezoar"}):
        figure.savefig(file, format="svg", metadata=metadata)
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    named = rf"\g<1>{name}-"
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r'( id="|url\(#|href="#)', named, tag[0]), text)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, number: int) -> None:
    colour, dash, marker = _LINES[number % len(_LINES)]
    axes.plot(
        x,
        y,
        color=colour,
        linestyle=dash,
        marker=marker,
        markersize=5,
        markevery=max(1, len(x) // 20),
        linewidth=1.6,
        markerfacecolor=colour if number % 2 else "none",
        label=label,
        clip_on=False,
    )
