import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.report import tables
from bezoar.report.tables import latex, markdown, validate, wide

HEAD = {"command": "bezoar demo", "revision": "abc", "machine": "2 cores"}
GOOD = {"case": "none", "seed": 0, "metric": "fgsm@0.1", "value": 0.5, "low": 0.4, "high": 0.6}


def results(**changes):
    return {**HEAD, "rows": [{**GOOD, **changes}]}


def test_a_good_table_comes_back_as_its_rows():
    assert validate(results(n=10, paper=0.9669)) == [{**GOOD, "n": 10, "paper": 0.9669}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": 1.5, "high": 2}, r"row 0 \(none, fgsm@0.1\): value=1.5: expected .* \[0, 1\]"),
        ({"value": -0.1}, r"value=-0.1: expected a number in \[0, 1\]"),
        ({"value": math.nan}, "value=nan"),
        ({"value": True}, "value=True"),
        ({"value": None}, "value=None"),
        ({"low": 0.55}, "expected low <= value <= high"),
        ({"high": 0.45}, "expected low <= value <= high"),
        ({"paper": 96.69}, "paper=96.69"),
        ({"n": 0}, "n=0: expected an integer >= 1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True"),
        ({"metric": ""}, "metric=''"),
        ({"metric": "=cmd()"}, "starts with a letter or digit"),
        ({"case": "two\nlines"}, "text on one line"),
        ({"metric": "loss", "value": math.inf, "high": math.inf}, "value=inf: expected a finite"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
)
def test_a_bad_row_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        validate(results(**changes))


@pytest.mark.parametrize(
    "metric", ["loss", "loss:fgsm@0.1", "seconds", "ratio:foolbox", "latency64"]
)
def test_what_is_no_rate_may_be_above_one(metric):
    assert validate({**HEAD, "rows": [{**GOOD, "metric": metric, "value": 7, "high": 8}]})


def test_a_row_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match=r"row 1 .* is there twice"):
        validate({**HEAD, "rows": [GOOD, GOOD]})


def test_a_table_without_its_command_is_refused():
    with pytest.raises(ValueError, match="command=None: expected text"):
        validate({**HEAD, "command": None, "rows": []})


def test_one_seed_keeps_its_interval_and_several_give_mean_and_range():
    rows = [{**GOOD, "n": 10}, {**GOOD, "seed": 1, "value": 0.6, "high": 0.7, "n": 8}]
    single = wide(rows[:1]).cell("none", "fgsm@0.1")
    several = wide(rows).cell("none", "fgsm@0.1")
    assert (single.low, single.high, single.n, single.seeds) == (0.4, 0.6, 10, 1)
    assert several.value == pytest.approx(0.55)
    assert (several.low, several.high, several.n, several.seeds) == (0.5, 0.6, 8, 2)


def test_chosen_cases_and_metrics_come_in_the_order_asked_for():
    table = wide([GOOD, {**GOOD, "case": "b"}], cases=["b", "none"], metrics=["clean", "fgsm@0.1"])
    assert table.cases == ("b", "none")
    assert table.cell("none", "clean") is None
    assert table.cell("b", "fgsm@0.1").value == 0.5


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(case=NAMES, value=st.floats(0, 1))
def test_csv_parses_back_to_the_same_rows(case, value):
    text = tables.csv([{"case": case, "seed": 3, "metric": "clean", "value": value, "n": 7}])
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["case"], float(row["value"]), row["n"], row["low"]) == (case, value, "7", "")


def test_latex_escapes_what_it_would_take_for_commands():
    text = latex(wide([{**GOOD, "case": r"50% & $a_b^c \x{~#<"}]))
    escaped = r"50\% \& \$a\_b\textasciicircum{}c \textbackslash{}x\{\textasciitilde{}\#"
    assert f"{escaped}\\textless{{}} & 50.00 \\% (40.00 to 60.00 \\%) \\\\" in text
    assert r"\begin{tabular}{lr}" in text


def test_markdown_keeps_a_name_inside_its_cell():
    text = markdown(wide([{**GOOD, "case": "a|b<i>", "n": 12}]))
    assert r"| a\|b\<i\> | 50.00 % (40.00 to 60.00 %) |" in text
    assert "One seed, 95 % interval in brackets; seeds: 1; images: 12." in text
