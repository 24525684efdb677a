import matplotlib as mpl
import numpy as np
import pytest

from bezoar.report.figures import (
    Curve,
    Detector,
    Example,
    accuracy_curve,
    gallery,
    perturbation,
    picture,
    repair_progress,
    roc,
    svg,
)
from bezoar.report.tables import Cell


def curve(label):
    points = [(0.1, 0.4), (0.0, 0.9)]
    cells = [(eps, Cell(metric="a@1", value=v, low=v - 0.1, high=v + 0.1)) for eps, v in points]
    return Curve(label, tuple(cells))


ROWS = [{"round": 0, "clean": 0.9}, {"round": 1, "clean": 0.95, "robust": 0.5, "loss": 1.0}]


def test_curves_differ_without_colour_and_run_from_clean_on():
    before, after = accuracy_curve([curve("before"), curve("after")]).axes[0].lines
    assert list(before.get_xdata()) == [0.0, 0.1]
    assert list(before.get_ydata()) == [0.9, 0.4]
    assert before.get_linestyle() != after.get_linestyle()
    assert before.get_marker() != after.get_marker()


def test_a_roc_has_a_line_and_the_threshold_in_use_for_each_detector():
    fpr, tpr = np.array([0.0, 0.1, 1.0]), np.array([0.0, 0.8, 1.0])
    axes = roc([Detector("a", fpr, tpr, (0.1, 0.8)), Detector("b", fpr, fpr, (0.1, 0.1))]).axes[0]
    chance, first, mark, second, _ = axes.lines
    assert list(chance.get_xdata()) == list(chance.get_ydata())
    assert list(first.get_ydata()) == list(tpr)
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0.1], [0.8])
    assert first.get_linestyle() != second.get_linestyle()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="expected at least one"):
        roc([])


def test_progress_has_a_panel_for_each_thing_that_was_logged():
    titles = [axes.get_title(loc="left") for axes in repair_progress(ROWS).axes]
    assert titles == ["clean accuracy", "accuracy under attack", "loss"]
    assert len(repair_progress(ROWS[:1]).axes) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_grey_and_rgb(channels):
    x = np.full((channels, 6, 5), 0.5, np.float32)
    example = Example(x=x, x_adv=x, clean_title="$a", adversarial_title="_{b$")
    assert [axes.get_title() for axes in gallery([example]).axes] == ["$a", "change x1", "_{b$"]


def test_largest_change_spans_the_scale():
    x = np.zeros((1, 1, 3), np.float32)
    shown, factor = perturbation(x, np.array([[[0.25, 0.0, 0.125]]], np.float32))
    assert factor == 4
    np.testing.assert_array_equal(shown, [[[1.0, 0.5, 0.75]]])


def test_pictures_are_rgb_last_or_the_mean_of_the_channels():
    rgb = np.stack([np.full((2, 4), v, np.float32) for v in (0, 0.2, 1)])
    assert picture(rgb)[0, 0].tolist() == [0, 51, 255]
    assert picture(rgb[1:])[0, 0] == 153


def test_same_figure_gives_same_bytes_and_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    texts = {svg(accuracy_curve([curve("a")]), "one") for _ in range(2)}
    assert len(texts) == 1
    assert dict(mpl.rcParams) == before


def test_svg_ids_carry_the_name_and_labels_are_escaped_text():
    text = svg(accuracy_curve([curve("<script>$x_$ url(#a)")]), "one")
    assert text.startswith("<svg")
    assert text.count(' id="') == text.count(' id="one-')
    assert text.count('href="#') == text.count('href="#one-')
    assert "<script>" not in text
    assert "&lt;script&gt;$x_$ url(#a)" in text


@pytest.mark.parametrize("call", [accuracy_curve, repair_progress, gallery])
def test_nothing_to_draw_is_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call([])
