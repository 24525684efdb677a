import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from bezoar.report.pages import render

from .conftest import write_arrays, write_json, write_measurement, write_run

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Links, ids and open elements of a page; unbalanced elements raise."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.tags, self.values, self.open = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.endswith(("href", "src"))]
        self.ids += [value for name, value in attrs if name == "id"]
        self.values += [value for name, value in attrs if tag == "data"]
        self.open += [tag] * (tag not in VOID)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def change(path, **changes):
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_same_run_gives_the_same_bytes_wherever_it_lies(run, text):
    assert render(run) == text


def test_page_is_well_formed_and_fetches_nothing(text):
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)
    outside = [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert outside == ["https://arxiv.org/abs/2511.01377"]
    assert "url(http" not in text


def test_first_screen_answers_the_three_questions(text):
    words = re.sub(r"\s+", " ", text)
    asked = r"<h2>(Is .*?|What was done\?)</h2> <p class=\"answer\">(.*?)</p>"
    assert re.findall(asked, words) == [
        ("Is the model sick?", "Yes"),
        ("What was done?", "correct-online"),
        ("Is it well now?", "Undecided"),
    ]


@pytest.mark.parametrize(
    ("about", "first"),
    [
        ("Train on <twins>.", "Train on &lt;twins&gt;."),
        ("", "Trained against "),
    ],
)
def test_a_repair_is_explained_below_its_name_in_its_own_words(run, about, first):
    change(run / "repair.json", name="<b>", about=about, attack="pgd@0.1")
    words = re.sub(r"\s+", " ", render(run))
    assert f'<p class="answer">&lt;b&gt;</p> <p>{first}' in words


def test_first_screen_shows_the_worst_case_with_interval_count_and_paired_change(text):
    assert "Right in the worst case, eps 0.1" in text
    assert "8.89 to 53.23 %, 3 of 12 images" in text
    assert "46.77 to 91.11 %, 9 of 12 images" in text
    assert "+50.0 points" in text
    assert "6 images healed, 0 harmed" in text


def test_every_number_of_the_results_stands_on_the_page(run, text):
    values = {float(value) for value in Page(text).values}
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert {row["value"] for row in rows} <= values


def test_names_from_files_are_escaped(text):
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Digits &amp; &lt;b&gt;LeNet&lt;/b&gt;" in text
    assert "FGSM &lt;i&gt;80%&lt;/i&gt;" in text


def test_a_warning_is_shown_with_its_meaning(text):
    assert "masked-gradients" in text
    assert "One step and many steps disagree" in text
    assert "with many steps at half the radius" in text
    assert "1 warning about these numbers" in text


def test_gallery_shows_the_first_images_that_were_fooled(text):
    shown = re.findall(r"Image (\d+): <strong>", text)
    assert shown == ["13", "23", "33", "43", "53", "63", "73", "83"]


def test_paper_stands_beside_what_was_measured(text):
    assert "7.96 %" in text
    assert "2.3045" in text
    assert "96.69 %" in text


def test_a_run_without_repair_says_so(tmp_path):
    text = render(write_run(tmp_path, repaired=False))
    assert "No repair" in text
    assert "Nothing was changed, so nothing is new." in text
    assert "The repair, round by round" not in text


def test_rgb_images_and_one_metric_are_enough(tmp_path):
    run = write_run(tmp_path, repaired=False, channels=3)
    for metric in ("fgsm@0.2", "pgd@0.1", "noise@0.1"):
        shutil.rmtree(run / "measurements" / "before" / metric)
    assert "Right under fgsm@0.1" in render(run)


def test_without_measurements_the_numbers_remain(run):
    shutil.rmtree(run / "measurements")
    text = render(run)
    assert "No white-box attack is kept in this folder." in text
    assert "41.67 %" in text


def test_the_radius_of_the_worst_case_in_the_table_is_taken(run):
    results = json.loads((run / "results.json").read_text())
    results["rows"].append({"case": "before", "seed": 0, "metric": "robust@0.2", "value": 0.5})
    write_json(run / "results.json", results)
    text = render(run)
    assert "Right in the worst case, eps 0.2" in text
    assert "fgsm@0.1, fgsm@0.2, noise@0.1, pgd@0.1, image by image" in text


def test_a_worst_case_that_the_images_do_not_give_is_called_out(run):
    results = json.loads((run / "results.json").read_text())
    results["rows"].append({"case": "after", "seed": 0, "metric": "robust@0.1", "value": 0.9})
    write_json(run / "results.json", results)
    assert "robust@0.1: results.json has 0.9, the images give 75.0% " in render(run)


def test_eps_one_is_in_the_table_and_not_in_the_figure(run):
    results = json.loads((run / "results.json").read_text())
    results["rows"].append({"case": "before", "seed": 0, "metric": "pgd@1", "value": 0.0})
    write_json(run / "results.json", results)
    text = render(run)
    assert "<small>255/255</small>" in text
    assert ">250</text>" not in text


def test_noise_alone_is_no_attack(run):
    for case in ("before", "after"):
        for metric in ("fgsm@0.1", "fgsm@0.2", "pgd@0.1"):
            shutil.rmtree(run / "measurements" / case / metric)
    assert "No white-box attack on it is kept in this folder." in render(run)


def test_a_number_that_the_images_do_not_give_is_called_out(run):
    results = json.loads((run / "results.json").read_text())
    results["rows"][1].update(value=0.99, high=1.0)
    write_json(run / "results.json", results)
    assert "fgsm@0.1: results.json has 0.99, the images give 41.7% " in render(run)


def test_a_transfer_that_calls_itself_white_box_is_called_out_and_left_out(run):
    write_measurement(run, "after", "pgd@0.1", 2, wrong=1, scored_on="another")
    text = render(run)
    assert "not-white-box" in text
    assert "10 of 12 images" in text
    assert "9 of 12 images" not in text


def test_nothing_of_the_report_loads_torch():
    rooms = "cards, exhibits, export, figures, findings, pages, paired, record, tables"
    code = f"import sys; from bezoar.report import {rooms}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_tables_load_no_matplotlib():
    code = "import sys; from bezoar.report import tables; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run\.json: no such file"):
        render(tmp_path)


def test_an_unknown_format_is_refused(run):
    change(run / "run.json", format=2)
    with pytest.raises(ValueError, match=r"run\.json: format=2: expected 1"):
        render(run)


def test_a_bad_row_is_refused_with_its_file(run):
    change(run / "results.json", rows=[{"case": "before", "seed": 0, "metric": "clean"}])
    with pytest.raises(ValueError, match=r"results\.json: row 0 \(before, clean\): value=None"):
        render(run)


@pytest.mark.parametrize("rows", [None, [1], [{"round": None}], [{"loss": 1.0}]])
def test_a_repair_log_that_cannot_be_drawn_is_refused(run, rows):
    change(run / "repair.json", rows=rows)
    with pytest.raises(ValueError, match=r"repair\.json: .*expected"):
        render(run)


FIRST = ("measurements", "before", "fgsm@0.1", "000000.safetensors")


def test_a_truncated_file_is_named(run):
    path = run.joinpath(*FIRST)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"000000\.safetensors: expected safetensors"):
        render(run)


def test_a_file_without_the_columns_is_named(run):
    write_arrays(run.joinpath(*FIRST), index=np.arange(3))
    with pytest.raises(ValueError, match=r"000000\.safetensors: has no column"):
        render(run)


def test_pixels_outside_their_range_are_refused(run):
    path = run / "images" / "test.safetensors"
    index = 10 * np.arange(12) + 3
    write_arrays(path, pixels=np.full((12, 1, 6, 5), np.nan, np.float32), label=index, index=index)
    with pytest.raises(ValueError, match=r"pixels of image 1: expected values in \[0, 1\]"):
        render(run)
