"""The documentation builds, has a page for every method, and its Python runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bezoar.attacks import ATTACKS
from bezoar.guards import GUARDS
from bezoar.repairs import REPAIRS
from bezoar.report.findings import MEANINGS
from bezoar.scans import DATA_SCANS, MODEL_SCANS
from bezoar.triggers import TRIGGERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]


def python_of(page: Path) -> str:
    """All Python blocks of a Markdown page, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S))


def test_the_documentation_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees"]
    built = subprocess.run(
        [*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True
    )
    assert (built.returncode, built.stderr) == (0, "")


@pytest.mark.parametrize(
    "method", [*ATTACKS, *REPAIRS, *GUARDS, *TRIGGERS, *MODEL_SCANS, *DATA_SCANS]
)
def test_every_method_has_a_page_that_names_it(method):
    page = (ROOT / "docs" / "methods" / f"{method}.md").read_text("utf-8")
    assert page.startswith(f"# `{method}`")
    assert "arXiv:" in page


def test_every_warning_has_a_paragraph_and_a_meaning_in_the_report():
    kinds = re.findall(r'Warning\("([\w-]+)"', (ROOT / "src/bezoar/sanity.py").read_text("utf-8"))
    assert len(set(kinds)) == 12
    page = (ROOT / "docs" / "trust.md").read_text("utf-8")
    assert sorted(set(kinds)) == sorted(re.findall(r"^### `([\w-]+)`$", page, re.M))
    assert set(kinds) <= set(MEANINGS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_the_page_runs(page):
    code = python_of(page)
    assert code
    exec(compile(code, f"python of {page.name}", "exec"), {"__name__": "page"})
