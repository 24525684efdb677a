import pytest
import torch
import torch.nn.functional as F

from bezoar.classifier import predict
from bezoar.defence import Evidence
from bezoar.detection import scores
from bezoar.guards import MagNet
from bezoar.models import MagNet as Network
from bezoar.models import Reformer, create
from bezoar.seeds import generator


@pytest.fixture(scope="module")
def network():
    return create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0).eval()


@pytest.fixture(scope="module")
def made(digits, network):
    guard = MagNet(epochs=20, batch=32, lr=0.02, fpr=0.1)
    return guard(network, Evidence(digits.train, digits.validation), seed=0)


def images(count, shape):
    return torch.rand(count, *shape, generator=generator(0, "tests", "magnet"))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 7, 5), (2, 1, 3)])
def test_the_reformer_gives_images_of_the_same_shape(shape):
    made = Reformer(shape=shape)(images(2, shape))
    assert made.shape == (2, *shape)
    assert made.min() > 0
    assert made.max() < 1


def test_the_reformer_is_the_network_of_the_paper():
    # 1x3 + 3x3 + 3x3 + 3x3 + 3x1 kernels of 3x3, and a number for each map.
    assert sum(p.numel() for p in Reformer().parameters()) == 9 * (3 + 9 + 9 + 9 + 3) + 4 * 3 + 1


@pytest.mark.parametrize("p", [1, 2])
def test_the_score_is_what_the_reformer_changes(network, p):
    whole = Network(reformer=Reformer(shape=(1, 8, 8)), network=network, p=p).eval()
    x = images(4, (1, 8, 8))
    change = (whole.reformer(x) - x).abs()
    expected = torch.stack([(one**p).mean() for one in change])
    torch.testing.assert_close(scores(whole, x), expected.detach())
    assert torch.equal(predict(whole, x), predict(network, predict(whole.reformer, x)))


def test_learns_to_give_clean_images_back_and_keeps_the_best_epoch(digits, made):
    errors = [row["error"] for row in made.log]
    assert errors[-1] < errors[0] / 2
    x, _ = digits.validation.batch(slice(None))
    error = F.mse_loss(predict(made.classifier.reformer, x), x).item()
    assert error == pytest.approx(min(errors), rel=1e-4)


def test_rejects_as_few_clean_images_as_asked_and_noise_at_once(digits, made):
    x, _ = digits.validation.batch(slice(None))
    whole = made.classifier
    rejected = int((scores(whole, x) > whole.threshold).sum())
    assert 0.1 * len(x) - 1 < rejected <= 0.1 * len(x)
    assert (scores(whole, images(50, (1, 8, 8))) > whole.threshold).all()


def test_a_clean_test_image_is_hardly_ever_accused(digits, made):
    x, _ = digits.test.batch(slice(None))
    share = (scores(made.classifier, x) > made.classifier.threshold).double().mean()
    assert share < 0.2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sigma": -1.0}, "sigma=-1.0: expected a number at least 0"),
        ({"p": 3}, "p=3: expected 1 or 2"),
        ({"fpr": float("nan")}, "fpr=nan: expected a number in"),
        ({"width": 0}, "width=0: expected an integer >= 1"),
        ({"epochs": 0}, "epochs=0: expected an integer >= 1"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        MagNet(**fields)
