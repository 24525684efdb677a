"""What every scan of a model promises."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from bezoar.classifier import weights_hash
from bezoar.data.imageset import ImageSet
from bezoar.scans import MMBD, MODEL_SCANS, ChannelLipschitz, NeuralCleanse, anomaly
from bezoar.scans.protocol import outlying
from bezoar.seeds import hashed

# So easy to please that the small network is searched through in a few epochs.
FEW = {"epochs": 12, "batch": 8, "success": 0.3, "rest": 3}
CASES = [
    NeuralCleanse(**FEW),
    NeuralCleanse(**FEW, together=4, rows=20, threshold=0),
    MMBD(starts=2, steps=5, rows=16),
    ChannelLipschitz(),
    ChannelLipschitz(threshold=0),
]
COMPARING = [scan for scan in CASES if not isinstance(scan, ChannelLipschitz)]
BLIND = [scan for scan in CASES if scan.blind]


def test_every_scan_of_models_in_the_table_has_a_case():
    assert {type(case) for case in CASES} == set(MODEL_SCANS.values())


def told(finding):
    """All of a finding but what no two runs share."""
    values = {**vars(finding), "cost": finding.cost.passes}
    tensors = {k: v.tolist() for k, v in values.items() if isinstance(v, torch.Tensor)}
    return {**values, **tensors}


@pytest.mark.parametrize("scan", CASES, ids=repr)
class TestContract:
    def test_leaves_classifier_images_and_global_rng_alone(self, scan, network, trusted):
        network[0].requires_grad_(False)
        network.train()
        network[1].eval()
        before, state = weights_hash(network), torch.get_rng_state()
        pixels = trusted.pixels.clone()
        scan(network, trusted, seed=0)
        assert weights_hash(network) == before
        assert [module.training for module in network] == [True, False, True, True, True, True]
        assert [p.requires_grad for p in network.parameters()] == [False] * 2 + [True] * 4
        assert all(parameter.grad is None for parameter in network.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert torch.equal(trusted.pixels, pixels)
        assert torch.equal(torch.get_rng_state(), state)

    def test_same_seed_same_finding(self, scan, network, trusted):
        first, second = (scan(deepcopy(network), trusted, seed=7) for _ in range(2))
        assert told(first) == told(second)

    def test_the_finding_holds_together(self, scan, network, trusted):
        finding = scan(network, trusted, seed=0)
        assert finding.score >= 0
        assert finding.accused == (finding.score > finding.threshold)
        assert finding.p_value is None or 0 < finding.p_value <= 1
        assert finding.classes is None or finding.classes.shape == (10,)
        assert finding.suspect is None or (
            finding.accused and finding.classes.argmax() == finding.suspect
        )
        assert finding.rows is finding.flagged is None

    def test_every_pass_through_the_network_is_counted(self, scan, counted, trusted):
        network, passes = counted
        cost = scan(network, trusted, seed=0).cost
        assert (cost.forward, cost.backward) == (sum(passes.forward), sum(passes.backward))
        assert cost.seconds > 0

    def test_no_pass_is_larger_than_allowed(self, scan, counted, trusted):
        network, passes = counted
        scan(network, trusted, seed=0)
        assert max(passes.forward) <= getattr(scan, "rows", 1)

    def test_tells_its_progress(self, scan, network, trusted):
        steps = []
        scan(network, trusted, seed=0, on_step=steps.append)
        assert steps
        assert all(step.epoch <= step.epochs and step.done <= step.rows for step in steps)

    def test_refuses_a_network_that_is_not_finite(self, scan, network, trusted):
        network[5].weight.data.fill_(torch.nan)
        with pytest.raises(ValueError, match="classifier output is not finite"):
            scan(network, trusted, seed=0)

    def test_refuses_images_that_the_classifier_does_not_take(self, scan, network, toy):
        colours = toy(torch.rand(20, 3, 8, 8), 10)
        with pytest.raises(ValueError, match="expected images that the classifier takes"):
            scan(network, colours, seed=0)

    def test_is_a_value(self, scan):
        assert {scan: 1}[scan] == 1
        assert type(scan).__name__ in repr(scan)


@pytest.mark.parametrize("scan", COMPARING, ids=repr)
@pytest.mark.parametrize("classes", [1, 2])
def test_refuses_too_few_classes_to_compare(scan, classes, toy):
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, classes))
    images = toy(torch.rand(6, 1, 4, 5), classes)
    with pytest.raises(ValueError, match=rf"classifier of {classes} classes: expected at least th"):
        scan(model, images, seed=0)


@pytest.mark.parametrize("scan", BLIND, ids=repr)
def test_a_blind_scan_does_not_look_at_the_images(scan, network, trusted):
    black = torch.zeros_like(trusted.pixels)
    other = ImageSet(black, trusted.labels.flip(0), trusted.index, trusted.classes, "black")
    assert told(scan(network, trusted, seed=0)) == told(scan(network, other, seed=0))


class Noisy(nn.Module):
    """Pixels with noise that it declares, before a network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.keys = network, None

    def reseed(self, keys):
        self.keys = keys

    def forward(self, x):
        assert len(self.keys) == len(x)
        return self.network(x + hashed(self.keys, torch.zeros_like(self.keys), x.shape[1:]) / 5)


@pytest.mark.parametrize("scan", COMPARING, ids=repr)
def test_the_noise_of_a_classifier_follows_from_the_seed(scan, network, trusted):
    network = Noisy(network)
    network.reseed(torch.arange(2))
    state = torch.get_rng_state()
    first, second, other = (scan(network, trusted, seed=seed) for seed in (7, 7, 8))
    assert told(first) == told(second) != told(other)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_outlier_among_few_values_is_judged_as_by_grubbs():
    # Of four values, the largest 2.5 deviations of the others above their mean: t of 2 degrees.
    values = torch.tensor([-1.0, 0.0, 1.0, 2.5])
    distance = 2.5 / (4 / 3) ** 0.5
    tail = 0.5 * (1 - distance / (2 + distance**2) ** 0.5)
    assert outlying(values) == pytest.approx(4 * tail)
    assert outlying(values, least=1000.0) == outlying(torch.ones(5)) == 1


def test_values_that_are_known_badly_are_not_far_apart():
    values = torch.tensor([1.0, 1.001, 0.999, 1.01, 1.0])
    assert anomaly(values).max() > 5
    assert anomaly(values, least=0.01).max() == pytest.approx(1, abs=1e-3)
