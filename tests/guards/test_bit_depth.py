import pytest
import torch
from torch import nn

from bezoar.attacks import PGD
from bezoar.classifier import predict
from bezoar.defence import Evidence
from bezoar.guards import BitDepth
from bezoar.models import Purified, create
from bezoar.referee import measure
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=6)(made, digits.train, digits.validation, seed=0)
    return made


def test_the_log_has_the_accuracy_on_as_many_validation_images_as_asked(digits, network):
    evidence = Evidence(digits.train, digits.validation)
    for count, seen in ((40, 40), (0, len(digits.validation))):
        made = BitDepth(bits=2, images=count)(network, evidence, seed=0)
        x, y = digits.validation.batch(slice(seen))
        right = (predict(network, (x * 3).round() / 3).argmax(dim=1) == y).double().mean().item()
        assert made.log[0]["clean"] == pytest.approx(right)
        assert made.cost.forward == made.log[0]["forward"] == seen


class Mute(nn.Module):
    """The same rounding, of which nothing is declared."""

    def forward(self, x):
        return (x * 7).round() / 7


def test_the_surrogate_leads_an_attacker_where_the_gradient_leads_nowhere(digits, network):
    evidence = Evidence(digits.train, digits.validation)
    guarded = BitDepth(bits=3)(network, evidence, seed=0).classifier
    mute = Purified(purifier=Mute(), network=guarded.network)
    images, attack = digits.test.first(150), PGD(eps=0.1, steps=20)
    known, lost = (measure(attack, model, images, seed=0).facts for model in (guarded, mute))
    assert known.robust_accuracy.interval[1] < lost.robust_accuracy.interval[0]
    assert lost.zero_gradient[lost.open].all()
    assert not known.zero_gradient.any()


def test_with_all_bits_nothing_changes(digits, network):
    evidence = Evidence(digits.train, digits.validation)
    guarded = BitDepth(bits=16)(network, evidence, seed=0).classifier
    x, _ = digits.test.batch(slice(50))
    torch.testing.assert_close(predict(guarded, x), predict(network, x), atol=0.01, rtol=0.01)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bits": 17}, "bits=17: expected an integer from 1 to 16"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        BitDepth(**fields)
