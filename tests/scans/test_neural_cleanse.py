import pytest
import torch
from torch import nn

from bezoar.costs import Meter
from bezoar.scans import NeuralCleanse, Triggers, anomaly, inverted

SCAN = NeuralCleanse(batch=6)
CORNER = (slice(4, 6), slice(0, 2))  # a part of quadrant 2, so that the search comes by


def built(strength, bias=(0.0, 0.0, 0.0, 0.0)):
    """Class k where quadrant k of 6x6 is bright; a corner of 2x2 at its brightest adds to 2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4))
    quadrants = torch.zeros(5, 6, 6)
    for k in range(4):
        quadrants[k].reshape(2, 3, 2, 3)[k // 2, :, k % 2] = 1
    quadrants[4][CORNER] = 1
    with torch.no_grad():
        model[1].weight.copy_(quadrants.flatten(1))
        model[1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, -3.3]))
        model[3].weight.copy_(torch.eye(4, 5))
        model[3].weight[2, 4] = strength
        model[3].bias.copy_(torch.tensor(bias))
    return model.eval()


@pytest.fixture
def images(toy):
    """12 images with one quadrant brighter than the others, by which they are told apart."""
    quadrants = torch.full((4, 2, 3, 2, 3), 0.2)
    for k in range(4):
        quadrants[k, k // 2, :, k % 2] = 0.8
    return toy(quadrants.reshape(4, 1, 6, 6).repeat(3, 1, 1, 1), 4)


def search(scan, model, images):
    return inverted(scan, model, images, seed=0, meter=Meter())


def test_names_the_planted_class_and_finds_where_its_trigger_is(images):
    model = built(strength=30.0)
    finding = SCAN(model, images, seed=0)
    assert (finding.suspect, finding.accused) == (2, True)
    assert finding.p_value < 0.05
    mask = finding.mask[0]
    assert mask[CORNER].sum() > 0.8 * mask.sum()
    assert (finding.pattern[0][CORNER] > 0.8).all()
    assert mask.sum() <= 4


def test_the_planted_class_has_the_smallest_mask_and_its_patch_works(images):
    model = built(strength=30.0)
    found = search(SCAN, model, images)
    assert found.norms.argmin() == 2
    torch.testing.assert_close(found.norms, found.masks.sum(dim=(1, 2, 3)))
    x, y = images.batch(slice(None))
    for target in range(4):
        went = model(found.stamp(x, target)).argmax(dim=1) == target
        share = went[y != target].float().mean()
        assert found.success[target] == share >= SCAN.success


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_healthy_network_is_not_accused(seed, images):
    finding = SCAN(built(strength=0.0), images, seed=seed)
    assert not finding.accused
    assert finding.suspect is finding.mask is finding.pattern is None
    assert finding.p_value > 0.05


def test_a_tiny_mask_stands_out_however_much_the_others_differ():
    norms = torch.tensor([1.0, 20.0, 40.0, 80.0, 160.0, 25.0, 50.0, 100.0])
    found = Triggers(torch.zeros(8, 1, 4, 4), torch.zeros(8, 1, 4, 4), norms, torch.ones(8))
    index = NeuralCleanse().index(found)
    assert index.argmax() == 0
    assert index[0] > NeuralCleanse().threshold > index[1:].max()
    # The norms themselves spread so that not even 0 would lie two deviations below their median.
    assert anomaly(-norms).max() < anomaly(-norms.index_fill(0, torch.tensor(0), 0.0)).max() < 2


@pytest.mark.parametrize("together", [1, 3])
def test_all_classes_at_once_find_what_each_finds_alone(together, images):
    model = built(strength=30.0)
    whole, parts = Meter(), Meter()
    at_once = NeuralCleanse(batch=6, epochs=30)
    apart = NeuralCleanse(batch=6, epochs=30, together=together, rows=9)
    first = inverted(at_once, model, images, seed=0, meter=whole)
    second = inverted(apart, model, images, seed=0, meter=parts)
    torch.testing.assert_close(first.norms, second.norms, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.masks, second.masks, rtol=0, atol=1e-2)
    assert torch.equal(first.success, second.success)
    assert (whole.forward, whole.backward) == (parts.forward, parts.backward)


def test_a_class_that_is_done_leaves_the_batch(images):
    patient, hasty = Meter(), Meter()
    model = built(strength=30.0)
    inverted(NeuralCleanse(batch=6, rest=80), model, images, seed=0, meter=patient)
    inverted(NeuralCleanse(batch=6, rest=5), model, images, seed=0, meter=hasty)
    assert patient.backward == 80 * 4 * len(images)
    assert hasty.backward < patient.backward


def test_a_class_that_is_never_reached_is_not_suspicious(images):
    model = built(strength=0.0, bias=(0.0, -1000.0, 0.0, 0.0))
    found = search(SCAN, model, images)
    assert (found.norms[1], found.success[1]) == (36, 0)
    finding = SCAN(model, images, seed=0)
    assert finding.classes.argmin() == 1
    assert finding.suspect != 1


def test_refuses_to_judge_where_half_of_the_classes_are_not_reached(images):
    model = built(strength=0.0, bias=(0.0, -1000.0, -1000.0, 0.0))
    with pytest.raises(ValueError, match="2 of 4 classes reached within epochs=80: expected more"):
        SCAN(model, images, seed=0)


def test_refuses_images_of_one_class(images):
    of_one = images.take((images.labels == 1).nonzero().squeeze(1))
    with pytest.raises(ValueError, match="toy/train of one class: expected images of two classes"):
        SCAN(built(strength=0.0), of_one, seed=0)


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("success", 1.5), ("together", -1), ("rows", 0)]
)
def test_refuses_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: expected"):
        NeuralCleanse(**{field: value})
