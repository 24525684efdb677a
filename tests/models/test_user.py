import sys

import pytest
import torch
from torch import nn

from bezoar.models import from_factory

SOURCE = """
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

def number():
    return 3

def needy(width):
    return nn.Linear(width, 2)

def broken():
    raise OSError("no such\\nweights")

constant = 5
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A current folder with the user's modules; what they leave in Python is taken back."""
    (tmp_path / "bezoar_test_nets.py").write_text(SOURCE)
    (tmp_path / "bezoar_test_faulty.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_a_function_in_the_current_folder_gives_its_network():
    model = from_factory("bezoar_test_nets:small")
    assert model(torch.zeros(3, 1, 2, 2)).shape == (3, 2)


def test_a_function_of_an_installed_package_gives_its_network():
    assert isinstance(from_factory("torch.nn:Identity"), nn.Identity)


def test_a_file_of_the_current_folder_does_not_hide_an_installed_package(tmp_path):
    (tmp_path / "jinja2.py").write_text("raise RuntimeError('hijacked')")
    from_factory("bezoar_test_nets:small")
    assert sys.path.index(str(tmp_path)) == len(sys.path) - 1


@pytest.mark.parametrize(
    "spec",
    ["", "bezoar_test_nets", "bezoar_test_nets:", ":small", "a/b:c", "a:b()"],
)
def test_another_form_is_refused(spec):
    with pytest.raises(ValueError, match="expected module:function"):
        from_factory(spec)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("bezoar_test_absent:small", "No module named 'bezoar_test_absent'; expected a module in"),
        ("bezoar_test_nets.deeper:small", "is not a package; expected a module in"),
        ("bezoar_test_faulty:small", "its module fails with ZeroDivisionError"),
        ("bezoar_test_nets:smal", "expected a function of bezoar_test_nets, found none"),
        ("bezoar_test_nets:constant", "expected a function of bezoar_test_nets, found none"),
        ("bezoar_test_nets:needy", "called without arguments, fails with TypeError"),
        ("bezoar_test_nets:broken", "fails with OSError: no such weights"),
        ("bezoar_test_nets:number", "gives a int: expected a torch.nn.Module"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(spec, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        from_factory(spec)
    assert spec in str(caught.value)
    assert "\n" not in str(caught.value)
