import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bezoar.data.imageset import ImageSet
from bezoar.models import create
from bezoar.seeds import generator
from bezoar.triggers import AllToOne, LabelConsistent, poison


@pytest.fixture(scope="module")
def network():
    return create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0).eval()


@pytest.fixture(scope="module")
def images():
    x = torch.rand(20, 1, 8, 8, generator=generator(0, "lc"))
    names = tuple(str(k) for k in range(10))
    return ImageSet(x, torch.arange(20) % 2, np.arange(20), names, "toy/train")


def test_the_mark_is_the_one_of_the_paper_in_all_four_corners():
    stamped = LabelConsistent().stamp(torch.full((1, 1, 8, 8), 0.5))[0, 0]
    drawn = ["".join({0.0: "-", 0.5: ".", 1.0: "+"}[v] for v in row) for row in stamped.tolist()]
    assert drawn == [
        "+--..--+",
        "-+-..-+-",
        "+-+..+-+",
        "........",
        "........",
        "--+..+--",
        "-+-..-+-",
        "+-+..+-+",
    ]


def test_a_fainter_mark_is_added_and_cut():
    x = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    corner = LabelConsistent(amplitude=0.25).stamp(x)[:, 0, 0, :2]
    assert corner.tolist() == [[0.25, 0.0], [0.75, 0.25], [1.0, 0.75]]


def test_plants_hard_images_of_the_target_class_inside_the_ball(network, images):
    trigger = LabelConsistent(eps=0.1, steps=5, step_size=0.05)
    fitted = trigger.fit(network, images, target=1, seed=0)
    made = poison(images, fitted, AllToOne(1), rate=0.5, seed=0)
    assert torch.equal(made.images.labels, images.labels)
    inner = slice(None), slice(None), slice(3, -3), slice(None)  # between the marks
    change = made.images.pixels[made.rows][inner] - images.pixels[made.rows][inner]
    assert 0.09 < change.abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        y = torch.ones(10, dtype=torch.int64)
        hard, plain = (
            F.cross_entropy(network(x), y)
            for x in (fitted.learnt.tensors["x"], images.pixels[images.labels == 1])
        )
    assert hard > plain


def test_more_steps_make_harder_images_also_after_they_are_fooled(network, images):
    y = torch.ones(10, dtype=torch.int64)
    losses = []
    for steps in (1, 4, 16):
        trigger = LabelConsistent(eps=0.2, steps=steps, step_size=0.02)
        hard = trigger.fit(network, images, target=1, seed=0).learnt.tensors["x"]
        losses.append(F.cross_entropy(network(hard), y).item())
    assert losses == sorted(losses)


def test_the_place_of_an_image_does_not_matter(network, images):
    fitted = LabelConsistent(steps=2).fit(network, images, target=0, seed=0)
    x, keys = images.pixels[images.labels == 0], torch.arange(10)
    assert torch.equal(fitted.plant(x.flip(0), keys), fitted.plant(x, keys).flip(0))


def test_refuses_images_that_it_was_not_fitted_on(network, images):
    fitted = LabelConsistent(steps=1).fit(network, images, target=0, seed=0)
    with pytest.raises(ValueError, match=r"1 of 2 images that LabelConsistent.*not fitted on"):
        fitted.plant(images.pixels[:2], torch.arange(2))


def test_refuses_a_class_without_images_and_images_too_small(network, images):
    with pytest.raises(ValueError, match=r"target=7: no image of this class in toy/train"):
        LabelConsistent().fit(network, images, target=7, seed=0)
    with pytest.raises(ValueError, match=r"twice the mark=6 on images of 5x9"):
        LabelConsistent().stamp(torch.zeros(1, 1, 5, 9))
