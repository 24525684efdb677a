import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar import checkpoints
from bezoar.classifier import predict, prepare, weights_hash
from bezoar.defence import Evidence
from bezoar.detection import scores
from bezoar.guards import Squeezing
from bezoar.models import Disagreement, create
from bezoar.training import Training


@pytest.fixture(scope="module")
def network(digits):
    made = create("lenet-fig4", shape=digits.shape, classes=10, seed=0)
    Training(epochs=6)(made, digits.train, digits.validation, seed=0)
    return made


@pytest.fixture(scope="module")
def evidence(digits):
    return Evidence(digits.train, digits.validation)


def test_the_classes_are_those_of_the_network(digits, network, evidence):
    whole = Squeezing()(network, evidence, seed=0).classifier
    x, _ = digits.test.batch(slice(60))
    assert torch.equal(predict(whole, x), predict(network, x))


def test_the_score_is_the_largest_distance_of_the_answers(digits, network, evidence):
    x, _ = digits.test.batch(slice(20))
    guard = Squeezing(bits=2, size=3, search=5, strength=0.2)
    whole = guard(network, evidence, seed=0).classifier
    own = F.softmax(predict(network, x), dim=1)
    versions = [
        (x * 3).round() / 3,
        whole.median(x),
        whole.non_local_means(x),
    ]
    each = [(F.softmax(predict(network, v), dim=1) - own).abs().sum(dim=1) for v in versions]
    torch.testing.assert_close(scores(whole, x), torch.stack(each).amax(dim=0))
    assert len({int(k) for k in torch.stack(each).argmax(dim=0)}) > 1


@pytest.mark.parametrize("fpr", [0.0, 0.05, 0.3])
def test_rejects_as_few_clean_images_as_asked_and_hardly_fewer(network, evidence, fpr):
    made = Squeezing(fpr=fpr)(network, evidence, seed=0)
    x, _ = evidence.validation.batch(slice(None))
    rejected = int((scores(made.classifier, x) > made.classifier.threshold).sum())
    assert fpr * len(x) - 1 < rejected <= fpr * len(x)
    assert made.cost.forward == 4 * len(x)  # the image, two versions, and its class


def test_the_threshold_is_kept_and_named_by_the_hash(network, evidence, tmp_path):
    first, other = (Squeezing(fpr=fpr)(network, evidence, seed=0).classifier for fpr in (0.05, 0.3))
    assert weights_hash(first) != weights_hash(other)
    path = tmp_path / "squeezed.safetensors"
    checkpoints.save(path, first, classes=[str(k) for k in range(10)])
    again = checkpoints.load(path).model
    x, _ = evidence.validation.batch(slice(30))
    assert torch.equal(again.threshold, first.threshold)
    torch.testing.assert_close(scores(again, x), scores(first, x))


def test_an_attacker_has_a_slope_where_the_network_is_sure(digits, network, evidence):
    # Logits a million times as large: every answer is certain, and so is every distance.
    sure = nn.Sequential(network, Times(1e6))
    whole = Squeezing()(sure, evidence, seed=0).classifier
    x, _ = digits.test.batch(slice(100))
    slopes = []
    for model in (prepare(whole), whole):
        point = x.clone().requires_grad_()
        score = model.score(point)
        (slope,) = torch.autograd.grad(score.sum(), point)
        slopes.append(slope.flatten(1).abs().amax(dim=1))
        torch.testing.assert_close(score.detach(), scores(whole, x))
    certain = scores(whole, x) == 2
    assert certain.any()
    assert not slopes[1][certain].any()
    assert slopes[0][certain].all()


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class TestDisagreement:
    def test_lies_between_agreement_and_certain_difference(self):
        same = torch.tensor([[[3.0, 1.0, 0.0]] * 3])
        sure = torch.tensor([[[99.0, 0.0, 0.0], [99.0, 0.0, 0.0], [0.0, 99.0, 0.0]]])
        distance = Disagreement()(torch.cat([same, sure]))
        torch.testing.assert_close(distance, torch.tensor([0.0, 2.0]))

    def test_of_two_classes_it_is_twice_the_difference(self):
        p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.6, 0.4])
        logits = torch.stack([p.log(), q.log()])[None]
        torch.testing.assert_close(Disagreement()(logits), torch.tensor([0.6]))

    def test_the_surrogate_is_the_score_itself_where_no_answer_is_sure(self):
        logits = torch.rand(5, 3, 4) * 3
        torch.testing.assert_close(Disagreement().surrogate(logits), Disagreement()(logits))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bits": 0}, "bits=0: expected an integer from 1 to 16"),
        ({"size": 0}, "size=0: expected an integer from 1"),
        ({"strength": -0.1}, "strength=-0.1: expected a number at least"),
        ({"strength": 0.1, "search": 4}, "search=4: expected an odd number"),
        ({"fpr": 1.5}, "fpr=1.5: expected a number in"),
        ({"images": -1}, "images=-1: expected an integer >= 0"),
    ],
)
def test_refuses_settings_without_a_meaning(fields, said):
    with pytest.raises(ValueError, match=said):
        Squeezing(**fields)
