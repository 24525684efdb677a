"""The whole demo, as a new user runs it; about half a minute."""

import json

from bezoar import cli
from bezoar.demo import EPS


def test_the_demo_fools_repairs_and_tests_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["demo", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("report: run/report.html\n")
    assert said.startswith("metric ")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    robust = f"robust@{EPS:g}"
    found = {(row["case"], row["metric"]): row["value"] for row in rows}
    assert found["before", "clean"] > 0.95
    assert found["after", "clean"] > 0.95
    assert found["before", robust] < 0.9 < found["after", robust]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli.run(["demo", "--out", "run"]) == 0
    assert capsys.readouterr().out == said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert cli.run(["check", "run"]) == 0
