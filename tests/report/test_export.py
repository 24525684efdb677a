import csv
import json

import pytest

from bezoar.report.export import write


def test_writes_page_and_tables_and_nothing_else(run):
    there = set(run.rglob("*"))
    paths = write(run)
    names = ["report.html", "tables/results.csv", "tables/results.tex"]
    assert [path.relative_to(run).as_posix() for path in paths] == names
    assert set(run.rglob("*")) - there == {*paths, run / "tables"}


def test_csv_holds_the_numbers_of_the_results(run):
    write(run, ["csv"])
    rows = json.loads((run / "results.json").read_text())["rows"]
    with (run / "tables" / "results.csv").open(newline="") as file:
        found = [(row["case"], row["metric"], float(row["value"])) for row in csv.DictReader(file)]
    assert found == [(row["case"], row["metric"], row["value"]) for row in rows]


def test_writing_again_changes_no_byte(run):
    first = [path.read_bytes() for path in write(run, ["csv", "tex", "md"])]
    assert [path.read_bytes() for path in write(run, ["csv", "tex", "md"])] == first


def test_an_unknown_format_is_refused_before_anything_is_written(run):
    with pytest.raises(ValueError, match=r"formats=\['pdf'\]: expected some of html, csv, tex, md"):
        write(run, ["html", "pdf"])
    assert not (run / "report.html").exists()


def test_a_damaged_run_leaves_no_half_report(run):
    (run / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json: expected JSON"):
        write(run)
    assert not (run / "report.html").exists()
    assert not (run / "tables").exists()
