import json
from pathlib import Path

import pytest

from bezoar.report import sheet

HEAD = {"command": "bezoar reproduce x", "revision": "abc", "machine": "2 cores", "warnings": []}
ROOT = Path(__file__).parents[2]


def row(metric, value, case="none", seed=0, **more):
    return {"case": case, "seed": seed, "metric": metric, "value": value, **more}


def test_says_where_the_numbers_come_from():
    page = sheet.page({**HEAD, "rows": [row("clean", 0.5)]}, "toy")
    assert page.startswith("# toy: results\n\nRendered from `results/toy.json`; do not edit")
    assert "Made by `bezoar reproduce x` at revision abc, on 2 cores." in page


def test_every_metric_has_its_section_and_none_is_lost():
    metrics = ["passes", "odd", "loss", "transfer:fgsm@0.1", "pgd40@0.1", "clean"]
    page = sheet.page({**HEAD, "rows": [row(metric, 0.5) for metric in metrics]}, "toy")
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Accuracy, white-box",
        "## Attackers who know less",
        "## Loss",
        "## Cost",
        "## Further metrics",
        "## Warnings",
    ]
    assert "| case | pgd40@0.1 | clean |\n" in page
    assert "| case | odd |\n" in page


def test_times_of_a_guarded_model_are_no_times_as_fast():
    metrics = ["ratio:foolbox", "ratio:classifier", "latency64", "latency1"]
    page = sheet.page({**HEAD, "rows": [row(metric, 1.25) for metric in metrics]}, "toy")
    section = page.partition("## Time of an image")[2].partition("## ")[0]
    assert "| case | ratio:classifier | latency64 | latency1 |\n" in section
    assert "## Times as fast\n\n| case | ratio:foolbox |\n" in page


def test_many_radii_and_norms_stand_beside_the_case():
    rows = [
        row("robust@0.06", 0.5, case="a pgd40"),
        row("robust:foolbox@0.06", 0.75, case="a pgd40"),
        row("robust@0.3", 0.25, case="b pgd40"),
        row("median:l2", 1.5, case="a ddn"),
        row("median:l2:adv-lib", 1.75, case="a ddn"),
        row("excess", -0.25, case="a pgd40"),
    ]
    page = sheet.page({**HEAD, "rows": rows}, "toy")
    assert "| case | robust | robust:foolbox |\n" in page
    assert "| a pgd40 @0.06 | 50.00 % | 75.00 % |\n" in page
    assert "| b pgd40 @0.3 | 25.00 % |" in page
    assert "| case | median | median:adv-lib |\n" in page
    assert "| a ddn in l2 | 1.5 | 1.75 |\n" in page
    assert "| a pgd40 | -25.00 % |\n" in page


def test_seeds_are_averaged_and_the_paper_stands_beside_each():
    rows = [row("clean", 0.5, paper=0.9932), row("clean", 0.7, seed=1, paper=0.9932)]
    page = sheet.page({**HEAD, "rows": rows}, "toy")
    assert "| none | 60.00 % (50.00 to 70.00 %) |" in page
    assert "| none | clean | 0 | 50.00 % | 99.32 % |" in page
    assert "| none | clean | 1 | 70.00 % | 99.32 % |" in page


def test_a_warning_of_several_seeds_is_said_once():
    warning = {"case": "none", "kind": "masked-gradients", "text": "FGSM high, PGD low"}
    results = {**HEAD, "rows": [row("clean", 0.5)], "warnings": [warning, warning]}
    assert sheet.page(results, "toy").count("- none, masked-gradients: FGSM high, PGD low\n") == 1
    assert sheet.page({**results, "warnings": []}, "toy").endswith("## Warnings\n\nNone.\n")


def test_a_file_of_another_form_is_refused():
    with pytest.raises(ValueError, match="clean"):
        sheet.page({**HEAD, "rows": [row("clean", 1.5)]}, "toy")


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda p: p.stem)
def test_the_pages_in_the_documentation_are_those_of_the_results(path):
    page = sheet.page(json.loads(path.read_text(encoding="utf-8")), path.stem)
    stored = ROOT / "docs" / "results" / f"{path.stem}.md"
    assert stored.read_text(encoding="utf-8") == page
