"""A backdoored model file and what its attacker keeps beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bezoar import checkpoints, data, planted, trees
from bezoar.classifier import weights_hash
from bezoar.models import create
from bezoar.training import Training
from bezoar.triggers import (
    AllToAll,
    AllToOne,
    BadNets,
    Bpp,
    InputAware,
    LowFrequency,
    WaNet,
    poison,
)

ZERO = AllToOne(0)
TRAINING = Training(epochs=2, batch=32)
LF = LowFrequency(images=4, passes=1, steps=5)


@pytest.fixture(scope="module")
def few():
    whole = data.load("digits")
    return replace(whole, train=whole.train.first(96), validation=whole.validation.first(30))


@pytest.fixture
def plant(few, tmp_path):
    def call(trigger, aim=ZERO, rate=0.1, name="sick", **more):
        path = tmp_path / f"{name}.safetensors"
        arguments = {"rate": rate, "seed": 0, **more}
        planted.plant(path, "lenet-fig4", few, TRAINING, trigger, aim, **arguments)
        return path

    return call


@pytest.fixture(scope="module")
def clean():
    return create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0).eval()


def test_what_the_attacker_knows_comes_back(plant, few):
    path = plant(BadNets(size=2), AllToOne(3))
    secret, made = (
        planted.read(path),
        poison(few.train, BadNets(size=2), AllToOne(3), rate=0.1, seed=0),
    )
    assert (secret.trigger, secret.aim) == (BadNets(size=2), AllToOne(3))
    assert secret.rows.tolist() == made.rows.tolist()
    assert secret.about["rate"] == 0.1
    assert checkpoints.header(path).training["backdoor"] == secret.about


def test_a_fitted_trigger_comes_back_with_what_it_has_learnt(plant, few, clean):
    secret = planted.read(plant(LF, AllToOne(1), clean=clean))
    assert secret.trigger == LF.fit(clean, few.train, target=1, seed=0)
    assert secret.about["fitted on"] == weights_hash(clean)


def test_all_to_all_and_covers_come_back(plant):
    secret = planted.read(plant(Bpp(levels=3), AllToAll()))
    assert secret.aim == AllToAll()
    assert (len(secret.rows), len(secret.covers)) == (0, 0)  # others in each epoch


def test_the_model_file_does_not_name_the_rows(plant):
    header = checkpoints.header(plant(BadNets()))
    assert not {"rows", "covers"} & {*header.training, *header.training["backdoor"]}


def test_a_fit_goes_on_where_it_was_killed_and_leaves_nothing_behind(plant, clean, tmp_path):
    trigger = InputAware(width=2, depth=1, mask_epochs=2, epochs=2, batch=32)
    whole = planted.read(plant(trigger, name="whole", clean=clean)).trigger

    def killed(progress):
        if progress.epoch == 2:  # the first epoch of the masks is kept
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plant(trigger, clean=clean, on_step=killed)
    assert (tmp_path / "sick.fit.safetensors").exists()
    told = []
    assert planted.read(plant(trigger, clean=clean, on_step=told.append)).trigger == whole
    assert told[0].epoch == 2
    assert not [*tmp_path.glob("*.fit.safetensors")]


@pytest.mark.parametrize("trigger", [BadNets(), WaNet(grid=3)], ids=repr)
def test_goes_on_to_the_bit_where_it_was_killed(plant, trigger):
    whole = checkpoints.load(plant(trigger, name="whole")).model

    def killed(progress):
        if (progress.epoch, progress.done) == (2, 64):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plant(trigger, on_step=killed)
    again = checkpoints.load(plant(trigger)).model
    assert weights_hash(again) == weights_hash(whole)


def test_the_same_call_leaves_the_files_and_another_one_is_refused(plant):
    path = plant(BadNets())
    before = path.read_bytes(), planted.beside(path).read_bytes()
    assert plant(BadNets()) == path
    assert (path.read_bytes(), planted.beside(path).read_bytes()) == before
    with pytest.raises(ValueError, match=r"describes another backdoor: .*choose another --out"):
        plant(BadNets(), rate=0.2)
    assert (path.read_bytes(), planted.beside(path).read_bytes()) == before


@pytest.mark.parametrize(
    ("trigger", "aim", "more", "message"),
    [
        (BadNets(), AllToOne(0), {"rate": 0.001}, "expected at least one poisoned image"),
        (BadNets(), AllToOne(10), {}, "target=10: expected a class from 0 to 9"),
        (WaNet(), AllToOne(0), {"rate": 0.5}, "at most all images"),
        (LF, AllToOne(0), {}, "expected a clean classifier to fit it on"),
        (LF, AllToAll(), {"clean": True}, "expected one target class, for which"),
    ],
)
def test_a_refusal_writes_nothing(plant, tmp_path, clean, trigger, aim, more, message):
    more = {**more, "clean": clean} if "clean" in more else more
    with pytest.raises(ValueError, match=message):
        plant(trigger, aim, **more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"rows": torch.tensor([3, 1])},
        {"rows": torch.tensor([0.5])},
        {"covers": None},
        {"about": {}},
        {"learnt": {"source": 3}},
        {"about": {"trigger": {"name": "badnets", "size": 0}, "target": 0}},
        {"about": {"trigger": {"name": "badnet"}, "target": 0}},
    ],
)
def test_refuses_a_damaged_description(plant, tmp_path, change):
    path = tmp_path / "sick.safetensors"
    column = torch.from_numpy(np.array([1, 3]))
    good = {
        "format": 1,
        "about": {"trigger": {"name": "badnets"}, "target": 0},
        "rows": column,
        "covers": column,
        "learnt": None,
    }
    trees.save(planted.beside(path), good)
    assert planted.read(path).trigger == BadNets()
    trees.save(planted.beside(path), {**good, **change})
    with pytest.raises(ValueError, match=r"sick\.backdoor\.safetensors"):
        planted.read(path)


def test_says_where_it_looked_for_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m.backdoor.safetensors: no such file"):
        planted.read(tmp_path / "m.safetensors")
