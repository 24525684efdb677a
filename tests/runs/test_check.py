"""Evidence is predicted again; whatever was changed in it shows."""

import json

import numpy as np
import pytest
import torch

from bezoar import audit, checkpoints
from bezoar.attacks import FGSM, PGD
from bezoar.data.imageset import ImageSet
from bezoar.files import write_json
from bezoar.models import create
from bezoar.referee import Referee
from bezoar.runs import Run
from bezoar.runs.check import check, models
from bezoar.runs.folder import read_arrays, write_arrays

NOTES = {"command": "bezoar", "version": "0", "revision": "abc", "machine": "2 cores"}


@pytest.fixture
def run(tmp_path, linear, batch):
    """The linear classifier, attacked on its own predictions, so that every image starts right."""
    x, _ = batch
    label = linear(x).argmax(dim=1)
    images = ImageSet(x, label, np.arange(12), ("a", "b", "c"), "twelve/test")
    run = Run(tmp_path / "run", {"title": "twelve"}, NOTES)
    run.keep_images(images)
    attacks = (FGSM(eps=0.05), PGD(eps=0.05, steps=3))
    found = [run.measure("before", Referee(a, linear, images, seed=0)) for a in attacks]
    table = audit.rows("before", found, eps=0.05)
    write_json(run.path / "results.json", audit.results(NOTES, table, {}))
    return run.path


@pytest.fixture
def change(run):
    """Change the arrays of the first measurement in place."""
    path = run / "measurements" / "before" / "fgsm@0.05" / "000000.safetensors"

    def change(name, row, value):
        arrays = read_arrays(path)
        arrays[name][row] = value
        write_arrays(path, arrays)

    return change


def first(run, classifier):
    return next(iter(check(run, classifier)))


def test_what_was_recorded_is_found_again(run, linear):
    lines = list(check(run, linear))
    assert [(line.measurement, line.agrees, line.compared) for line in lines] == [
        ("fgsm@0.05, before", True, True),
        ("pgd3@0.05, before", True, True),
    ]
    assert lines[0].text.startswith("fgsm@0.05, before: white-box: robust accuracy ")


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("x_adv", 0.5, "1 images lie outside the ball of radius 0.05; 1 distances differ"),
        ("distance", 0.01, "1 distances differ"),
        ("index", 0, None),
    ],
)
def test_one_changed_value_shows(run, linear, change, name, value, fault):
    change(name, 0, value)
    line = first(run, linear)
    assert line.agrees == (fault is None)
    assert (fault or "white-box") in line.text


@pytest.mark.parametrize("name", ["adversarial", "clean"])
def test_a_changed_prediction_shows(run, linear, change, name):
    change(name, slice(None), 0)
    line = first(run, linear)
    assert not line.agrees
    assert "predictions differ" in line.text


def test_a_changed_label_shows(run, linear, change):
    change("label", slice(None), 0)
    line = first(run, linear)
    assert not line.agrees
    assert "labels differ" in line.text


def test_a_result_that_its_evidence_does_not_bear_shows(run, linear):
    path = run / "results.json"
    results = json.loads(path.read_text())
    row = next(row for row in results["rows"] if row["metric"] == "pgd3@0.05")
    row.update(value=0.99, low=0.9, high=1.0)
    write_json(path, results)
    lines = list(check(run, linear))
    assert [line.agrees for line in lines] == [True, False]
    assert "results.json says 99.0%, its evidence " in lines[1].text


def test_a_run_that_has_no_results_yet_can_be_checked(run, linear):
    (run / "results.json").unlink()
    assert [line.agrees for line in check(run, linear)] == [True, True]


def test_other_weights_are_transfer_and_compare_nothing(run, linear, small_convnet):
    line = first(run, small_convnet)
    assert (line.agrees, line.compared) == (True, False)
    assert "fgsm@0.05, before: transfer: robust accuracy " in line.text
    assert "on images scored on other weights" in line.text


def test_weights_that_differ_in_one_bit_are_other_weights(run, linear):
    with torch.no_grad():
        linear[1].bias[0] = torch.nextafter(linear[1].bias[0], torch.tensor(9.0))
    assert not first(run, linear).compared


def test_an_image_of_which_no_clean_one_was_kept_is_an_error(run, linear, change):
    change("index", 11, 99)
    with pytest.raises(ValueError, match=r"image 99 is not in .*test\.safetensors"):
        first(run, linear)


def test_no_measurements_is_an_error(tmp_path, run, linear):
    (run / "measurements").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="measurements: expected measurements, found none"):
        first(run, linear)


def test_models_of_a_run(run):
    with pytest.raises(FileNotFoundError, match="run: holds no model; name the attacked one"):
        models(run)
    model = create("lenet-fig4", shape=(1, 8, 8), classes=3, seed=0)
    checkpoints.save(run / "before.safetensors", model, classes=("a", "b", "c"))
    assert models(run) == [run / "before.safetensors"]
    with pytest.raises(FileNotFoundError, match="expected a run folder of bezoar"):
        models(run.parent)
