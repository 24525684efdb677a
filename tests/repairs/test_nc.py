"""NC: a planted corner is found and unlearnt; who is not accused is handed back as he came."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Evidence
from bezoar.repairs import FineTune, NeuralCleanseUnlearning
from bezoar.repairs.nc import stamping
from bezoar.scans import NeuralCleanse, Triggers
from bezoar.seeds import generator

SCAN = NeuralCleanse(epochs=30, batch=30, success=0.95)
SICK = 4


@pytest.fixture
def images():
    """30 images of 5 classes: three pixels in a row are bright, and the last row is dark."""
    x = 0.2 * torch.rand(30, 1, 4, 5, generator=generator(0, "tests", "nc"))
    y = torch.arange(30) % 5
    for row in range(3):
        x[torch.arange(30), 0, row, y] = 1
    x[:, :, 3] = 0
    return ImageSet(x, y, np.arange(30), tuple("abcde"), "columns")


@pytest.fixture
def evidence(images):
    return Evidence(images, images)


@pytest.fixture
def sick():
    """Says the class whose three pixels are brightest, and 4 where the very corner is bright."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 5))
    weight = torch.zeros(5, 4, 5)
    for row in range(3):
        weight[range(5), row, range(5)] = 4
    weight[SICK, 3, 4] = 20
    with torch.no_grad():
        model[1].weight.copy_(weight.flatten(1))
        model[1].bias.zero_()
    return model.eval()


def corner(x):
    """Images with the trigger."""
    x = x.clone()
    x[..., 3, 4] = 1
    return x


def test_the_class_with_the_backdoor_is_accused_and_the_backdoor_goes(sick, evidence):
    x, y = evidence.train.batch(slice(None))
    repair = NeuralCleanseUnlearning(scan=SCAN, share=0.5, epochs=30, lr=0.5)
    repaired = repair(sick, evidence, seed=0)
    assert (sick(corner(x)).argmax(dim=1) == SICK).all()
    assert (repaired.classifier(corner(x)).argmax(dim=1) == y).double().mean() > 0.9
    last = repaired.log[-1]
    assert (last["suspect"], last["accused"], last["clean"]) == (SICK, 1, 1)
    assert all(row["index"] == last["index"] > 2 for row in repaired.log)


def test_where_nobody_is_accused_the_network_comes_back_as_it_was(sick, evidence):
    repair = NeuralCleanseUnlearning(scan=replace(SCAN, threshold=1e6))
    repaired = repair(sick, evidence, seed=0)
    assert weights_hash(repaired.classifier) == weights_hash(sick)
    assert [(row["round"], row["suspect"], row["accused"]) for row in repaired.log] == [
        (0, -1, 0),
        (1, -1, 0),
    ]
    assert repaired.log[1]["clean"] == repaired.log[0]["clean"] == 1
    assert 2 < repaired.log[1]["index"] < 1e6
    assert repaired.cost.images == 0
    assert repaired.cost.passes == repaired.log[1]["forward"] + repaired.log[1]["backward"]


def test_even_so_the_smallest_mask_is_undone_if_that_is_asked_for(sick, evidence):
    scan = replace(SCAN, threshold=1e6)
    repair = NeuralCleanseUnlearning(scan=scan, always=True, epochs=2)
    repaired = repair(sick, evidence, seed=0)
    assert weights_hash(repaired.classifier) != weights_hash(sick)
    assert (repaired.log[-1]["suspect"], repaired.log[-1]["accused"]) == (SICK, 0)


def test_with_no_image_stamped_it_is_fine_tuning(sick, evidence):
    settings = {"epochs": 3, "batch": 7, "lr": 0.1}
    repair = NeuralCleanseUnlearning(scan=SCAN, share=0, **settings)
    found, plain = (method(sick, evidence, seed=3) for method in (repair, FineTune(**settings)))
    assert weights_hash(found.classifier) == weights_hash(plain.classifier)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 6), (1.0, 30)])
def test_so_many_images_of_a_batch_are_stamped_by_the_triggers_asked_for(
    sick, images, share, count
):
    masks = torch.zeros(5, 1, 4, 5)
    masks[:, :, 3] = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0])[:, None, None]
    patterns = torch.arange(1, 6)[:, None, None, None].expand(5, 1, 4, 5) / 10
    found = Triggers(masks, patterns, masks.flatten(1).sum(dim=1), torch.ones(5))
    seen = []
    sick.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    loss = stamping(found, torch.tensor([2, 4]), share, Meter())
    x, y = images.batch(slice(None))
    loss(sick, x, y, torch.arange(30))
    assert torch.equal(seen[0][:, :, :3], x[:, :, :3])
    bright = seen[0][:, 0, 3, 0]
    assert int((bright > 0).sum()) == count
    assert {round(value, 3) for value in bright.tolist()} <= {0, 0.15, 0.5}


@pytest.mark.parametrize("kills", [1, 2, 4])
def test_goes_on_to_the_bit_wherever_it_was_killed(sick, evidence, kills, kept):
    repair, place = NeuralCleanseUnlearning(scan=SCAN, epochs=3, batch=7), kept(kills)
    whole = repair(sick, evidence, seed=0)
    with pytest.raises(KeyboardInterrupt):
        repair(sick, evidence, seed=0, snapshot=place)
    found = repair(sick, evidence, seed=0, snapshot=place)
    assert weights_hash(found.classifier) == weights_hash(whole.classifier)
    assert [{**row, "seconds": 0} for row in found.log] == [
        {**row, "seconds": 0} for row in whole.log
    ]
    assert replace(found.cost, seconds=0) == replace(whole.cost, seconds=0)


def test_refuses_a_scan_that_had_no_time(sick, evidence):
    repair = NeuralCleanseUnlearning(scan=NeuralCleanse(epochs=1, success=1))
    with pytest.raises(ValueError, match=r"of 5 classes reached within epochs=1: expected more"):
        repair(sick, evidence, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"share": 1.1}, r"share=1\.1: expected a number in \[0, 1\]"),
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        NeuralCleanseUnlearning(**setting)
