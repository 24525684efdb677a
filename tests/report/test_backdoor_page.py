import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bezoar.report import figures
from bezoar.report.backdoor_page import render
from bezoar.report.export import write
from bezoar.report.tables import Cell
from bezoar.results import Rate

from .conftest import CLASSES, INDEX, LABEL, WRONG, pixels, write_arrays, write_json
from .test_pages import Page, change

NAME = "conv<b>1"
REPR = "GradPrune(source=Oracle(), score=ByGradient(), filters=100)"
OTHERS = np.flatnonzero(LABEL != 0)  # the attacker wants class 0
LED, STAYED = OTHERS[:6], OTHERS[:1]  # before, after


def rate(case, metric, count, total):
    found = Rate(count, total)
    low, high = found.interval
    names = {"case": case, "seed": 0, "metric": metric}
    return {**names, "value": found.value, "low": low, "high": high, "n": total}


def number(metric, value, **more):
    return {"case": "after", "seed": 0, "metric": metric, "value": value, **more}


def rows():
    return [
        rate("before", "clean", 11, 12),
        rate("before", "asr", 6, 8),
        rate("before", "ra", 2, 8),
        rate("after", "clean", 12, 12),
        rate("after", "asr", 1, 8),
        rate("after", "ra", 7, 8),
        number("der", 0.8125, low=0.6, high=0.9, n=8),
        number("drop", -1 / 12, low=-0.3, high=0.1, n=12),
        number("seconds", 12.5),
        number("passes", 17000),
    ]


def write_answers(run, **changes):
    x = pixels()[OTHERS[:3]]
    stamped = np.where(np.isin(OTHERS, LED), 0, LABEL[OTHERS])
    columns = {
        "index": INDEX,
        "label": LABEL,
        "clean_before": np.where(np.arange(12) == 11, WRONG, LABEL),
        "clean_after": LABEL,
        "stamped_index": INDEX[OTHERS],
        "wanted": np.zeros(8, np.int64),
        "stamped_before": stamped,
        "stamped_after": np.where(np.isin(OTHERS, STAYED), 0, LABEL[OTHERS]),
        "shown": np.arange(3),
        "x": x,
        "x_stamped": np.maximum(x, 200),
    }
    write_arrays(run / "backdoor.safetensors", **{**columns, **changes})


def write_cure(run: Path) -> Path:
    about = {
        "format": 1,
        "command": "bezoar repair sick.safetensors --backdoor sick.safetensors",
        "title": "Sick & <b>sorry</b>",
        "data": {"name": "digits", "classes": CLASSES, "test": 12},
        "settings": {"repair": REPR, "backdoor": {"target": 0}, "spc": 8},
    }
    write_json(run / "run.json", about)
    head = {"format": 1, "command": "c", "revision": "r", "machine": "m", "warnings": []}
    write_json(run / "results.json", {**head, "rows": rows()})
    shared = {"clean": 0.9, "clean_loss": 0.25, "trigger_loss": 2.5}
    log = [
        {"round": 0, **shared, "layer": -1, "filter": -1, "kept": 0},
        {"round": 1, **shared, "layer": 0, "filter": 3, "kept": 0},
        {"round": 2, **shared, "layer": 0, "filter": 1, "kept": 1},
    ]
    cost = {"images": 10, "forward": 9000, "backward": 8000, "seconds": 12.5}
    said = {"name": "gradprune", "about": "Prune <by> gradient.", "repr": REPR}
    write_json(run / "repair.json", {**said, "rows": log, "cost": cost})
    gone = [{"layer": 0, "name": NAME, "filter": k, "channels": 4} for k in (3, 1)]
    counts = {"clean": [9, 8, 7, 10], "asr": [8, 5, 3, 1]}
    sizes = {"images": 11, "triggered": 8}
    write_json(run / "path.json", {"format": 1, **sizes, "gone": gone, **counts})
    write_answers(run)
    mask = np.zeros((1, 6, 5), np.float32)
    mask[0, 4:, 3:] = 0.5
    pattern = np.full((1, 6, 5), 0.75, np.float32)
    write_arrays(run / "found.safetensors", mask=mask, pattern=pattern)
    return run


@pytest.fixture
def run(tmp_path):
    return write_cure(tmp_path / "run")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The page of the run, made once."""
    return render(write_cure(tmp_path_factory.mktemp("cure")))


def words(text):
    return re.sub(r"\s+", " ", text)


def test_same_run_gives_the_same_bytes_wherever_it_lies(run, text):
    assert render(run) == text


def test_page_is_well_formed_and_fetches_nothing(text):
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)
    outside = [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert "url(http" not in text


def test_first_screen_answers_the_three_questions(text):
    asked = r"<h2>(Is .*?|What was done\?)</h2> <p class=\"answer\">(.*?)</p>"
    assert re.findall(asked, words(text)) == [
        ("Is the model sick?", "Yes"),
        ("What was done?", "GradPrune"),
        ("Is it well now?", "Undecided"),  # 1 of 8 images says little
    ]


def test_rates_stand_with_interval_and_count(text):
    for line in rows()[:6]:
        cell = Cell.of(Rate(round(line["value"] * line["n"]), line["n"]), line["metric"])
        assert f"{cell.span}</small>" in text
    assert "40.93 to 92.85 %, 6 of 8 images" in text
    assert "2.24 to 47.09 %, 1 of 8 images" in text
    assert "DER: 81.25 % [60.00 to 90.00 %], 8 images." in text
    assert "Clean accuracy lost: -8.33 % [-30.00 to +10.00 %], 12 images." in text


def test_every_number_of_the_results_and_of_the_path_stands_on_the_page(text):
    values = {float(value) for value in Page(text).values}
    assert {line["value"] for line in rows()} <= values
    assert {count / 11 for count in (9, 8, 7, 10)} <= values
    assert {count / 8 for count in (8, 5, 3, 1)} <= values


def test_what_was_done_is_said_in_the_words_of_the_repair(text):
    said = words(text)
    for line in (
        "Prune &lt;by&gt; gradient.",
        "It was given the true trigger, which no defender has.",
        "It saw 8 clean images of each class; none of the test images.",
        "2 filters silenced.",
        "2 rounds.",
        "It cost 17,000 passes in 12.5 s.",
    ):
        assert f"<p>{line}</p>" in said


def test_an_oracle_is_warned_of_and_another_source_is_not(run, text):
    assert "a defender has not got it" in text
    change(run / "repair.json", repr="GradPrune(source=Surrogate(eps=0.15))")
    other = render(run)
    assert "a universal perturbation that it made" in other
    assert "a defender has not got it" not in other
    assert "None: the numbers are those that the answers kept beside this page give." in other


def test_changes_are_paired_and_those_of_the_asr_have_words_of_their_own(text):
    assert "-62.50 points" in text
    assert "5 freed, 0 newly led" in text
    assert "5 healed, 0 harmed" in text


def test_pictures_have_class_names_and_outcomes_that_need_no_colour(text):
    assert re.findall(r"Image (\d+): <strong>", text) == ["13", "23", "43"]
    said = words(text)
    assert '<span class="said">zero</span><br><span aria-hidden="true">⚑</span> wanted' in said
    assert '<span class="said">two &amp; a half</span><br><span aria-hidden="true">✓</span>' in said


def test_names_from_files_are_escaped(text):
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Sick &amp; &lt;b&gt;sorry&lt;/b&gt;" in text
    assert "<code>conv&lt;b&gt;1/3</code>, <code>conv&lt;b&gt;1/1</code>" in text


def test_what_a_repair_found_stands_beside_the_true_trigger(run, text):
    assert "mask × pattern" in text  # noqa: RUF001
    assert "The mask is white where the pattern covers: 2.0 of 30 pixels." in text
    delta = np.full((1, 6, 5), -0.2, np.float32)
    write_arrays(run / "found.safetensors", delta=delta)
    other = render(run)
    assert "delta × 5" in other  # noqa: RUF001
    assert "at most 0.2 is added or taken" in other


def test_a_repair_that_found_and_pruned_nothing_has_a_page_too(run):
    for name in ("found.safetensors", "path.json"):
        (run / name).unlink()
    text = render(run)
    assert "No filter silenced." in text
    assert "The trigger that the repair found" not in text
    assert "The filters that went" not in text


def test_a_backdoor_that_leads_nobody_is_no_sickness_for_sure_only_with_enough_images(run):
    write_answers(run, stamped_before=LABEL[OTHERS], stamped_after=LABEL[OTHERS])
    table = json.loads((run / "results.json").read_text())
    spared = [rate(case, "asr", 0, 1000) for case in ("before", "after")]
    write_json(run / "results.json", {**table, "rows": [*table["rows"][:1], *spared]})
    text = render(run)
    assert '<p class="answer">No</p>' in text
    assert "The backdoor led no image that was named rightly" in text


def test_a_number_that_the_answers_do_not_give_is_called_out(run):
    table = json.loads((run / "results.json").read_text())
    table["rows"][4].update(value=0.0, low=0.0)
    write_json(run / "results.json", table)
    assert "asr: results.json has 0, the images give 12.5% " in render(run)


def test_report_picks_the_page_by_what_is_in_the_folder(run, text):
    page = write(run, ["html"])[0]
    assert page.read_text() == text


def test_the_curve_keeps_the_end_apart(text):
    cells = [Cell.of(Rate(k, 9), "asr") for k in (9, 5, 3, 1)]
    axes = figures.pruning_path({"asr": cells, "clean": cells}).axes[0]
    assert list(axes.lines[0].get_xdata()) == [0, 1, 2]
    assert axes.get_xticklabels()[-1].get_text() == "end"
    with pytest.raises(ValueError, match="expected one length of 2 at least"):
        figures.pruning_path({"asr": cells, "clean": cells[1:]})


def test_nothing_of_it_loads_torch():
    rooms = "backdoor_page, backdoor_record, export"
    code = f"import sys; from bezoar.report import {rooms}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_missing_answers_are_named_with_what_to_do(run):
    (run / "backdoor.safetensors").unlink()
    reason = r"backdoor\.safetensors: no such file; run the command in run\.json again"
    with pytest.raises(FileNotFoundError, match=reason):
        write(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["backdoor.safetensors", "found.safetensors"])
def test_a_truncated_file_is_named(run, name):
    path = run / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name}: expected safetensors"):
        render(run)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wanted": LABEL[OTHERS]}, "wanted: expected no image of the class"),
        ({"stamped_index": INDEX[OTHERS] + 1}, "stamped_index: expected positions that index has"),
        ({"index": INDEX[::-1]}, "index: expected increasing positions"),
        ({"shown": np.array([0, 8])}, "shown: expected places from 0 to 7"),
        ({"clean_after": LABEL[1:]}, "columns of unequal lengths"),
        ({"clean_after": LABEL.astype(np.float32)}, "clean_after of shape"),
        ({"x": pixels()[:2]}, "x of shape"),
        ({"x_stamped": pixels()[:3, :, 1:]}, "x_stamped of shape"),
        ({"x": np.full((3, 1, 6, 5), np.nan, np.float32)}, r"x of image 0: expected values in"),
    ],
)
def test_answers_that_cannot_be_are_refused(run, changes, reason):
    write_answers(run, **changes)
    with pytest.raises(ValueError, match=rf"backdoor\.safetensors: {reason}"):
        render(run)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"delta": np.full((1, 6, 5), np.nan, np.float32)}, r"delta: expected values in \[-1, 1\]"),
        ({"delta": np.zeros((3, 6, 5), np.float32)}, r"delta of shape \(3, 6, 5\)"),
        ({"mask": np.full((1, 6, 5), 1.5, np.float32)}, r"mask: expected values in \[0, 1\]"),
    ],
)
def test_a_trigger_that_cannot_be_is_refused(run, arrays, reason):
    write_arrays(run / "found.safetensors", **arrays)
    with pytest.raises(ValueError, match=rf"found\.safetensors: {reason}"):
        render(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"gone": []},
        {"clean": [1, 2]},
        {"asr": [9, 0, 0, 0]},
        {"clean": [1, 2, 3, True]},
        {"triggered": "8"},
        {"gone": [{"layer": 0, "name": "a", "filter": 4, "channels": 4}] * 2},
        {"gone": [1, 2]},
    ],
)
def test_a_path_that_cannot_be_is_refused(run, changes):
    change(run / "path.json", **changes)
    with pytest.raises(ValueError, match=r"path\.json: .*expected"):
        render(run)


def test_a_repair_that_left_no_log_is_no_reason_to_fail(run):
    (run / "repair.json").unlink()
    shutil.rmtree(run / "tables", ignore_errors=True)
    assert "How the model was repaired is not recorded here." in render(run)
