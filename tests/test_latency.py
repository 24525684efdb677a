"""The protocol of latencies: what is run, in which order, how often, and what counts."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from bezoar import latency as timing
from bezoar.costs import Latency, ratio
from bezoar.latency import latency
from bezoar.models import Autoencoder, Ensemble, Purified, create
from bezoar.report import tables

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Spy(nn.Module):
    """Identity that notes its name and its images, and lets a clock advance."""

    def __init__(self, name, seen, takes=lambda name: None):
        super().__init__()
        self.name, self.seen, self.takes = name, seen, takes

    def forward(self, x):
        assert not torch.is_grad_enabled()
        assert not self.training
        self.seen.append((self.name, x))
        self.takes(self.name)
        return x


def guarded(*spying):
    return Purified(purifier=Spy("guard", *spying), network=Spy("classifier", *spying)).train()


def one(part="whole", batch=64, seconds=(1.0,)):
    about = {"memory": 7, "transfer": 0.0, "device": "CPU", "threads": 1}
    return Latency(part=part, batch=batch, seconds=tuple(seconds), **about)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what the spies take."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


ROUND = ["guard", "classifier", "guard", "classifier"]  # whole, guard, classifier


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_parts_take_turns_and_rounds_to_warm_up_are_not_counted(warmup):
    seen = []
    found = latency(guarded(seen), X, batches=(2, 5), runs=3, warmup=warmup)
    assert [name for name, _ in seen] == 2 * (1 + warmup + 3) * ROUND
    assert [len(x) for _, x in seen] == [size for size in (2, 5) for _ in range(4 * (4 + warmup))]
    parts = ("whole", "guard", "classifier")
    assert [(m.part, m.batch) for m in found] == [(p, size) for size in (2, 5) for p in parts]
    assert {(m.runs, m.device, m.transfer, m.threads) for m in found} == {
        (3, "CPU", 0.0, torch.get_num_threads())
    }


def test_a_batch_larger_than_the_images_repeats_them():
    seen = []
    latency(guarded(seen), X, batches=(5,), runs=1, warmup=0)
    assert all(torch.equal(x, X[[0, 1, 2, 0, 1]]) for _, x in seen)


def test_each_part_gets_its_own_time(clock):
    takes = {"guard": 0.25, "classifier": 1.0}

    def spend(name):
        clock[0] += takes[name]

    found = latency(guarded([], spend), X, batches=(64,), runs=4, seconds=1e9)
    assert [m.seconds for m in found] == [(1.25,) * 4, (0.25,) * 4, (1.0,) * 4]
    assert [m.each for m in found] == [1.25 / 64, 0.25 / 64, 1 / 64]
    assert [m.rate for m in found] == [64 / 1.25, 256, 64]
    assert ratio(found, 64) == 1.25


@pytest.mark.parametrize(("least", "made"), [(1, 4), (5, 5), (9, 9)])
def test_a_slow_part_gets_fewer_runs_but_never_too_few(clock, least, made):
    """A round takes 2 * (2 + 1) s: after four of them 24 s are over 20."""
    seen = []

    def spend(name):
        clock[0] += {"guard": 2, "classifier": 1}[name]

    model = guarded(seen, spend)
    found = latency(model, X, batches=(1,), runs=100, warmup=2, seconds=20, least=least)
    assert {m.runs for m in found} == {made}
    assert len(seen) == 4 * (1 + 2 + made)


def test_warming_up_ends_with_its_time_too(clock):
    seen = []

    def spend(name):
        clock[0] += 10

    latency(guarded(seen, spend), X, batches=(1,), runs=1, warmup=100, seconds=50)
    assert len(seen) == 4 * (1 + 2 + 1)


def test_what_may_be_timed_of_a_model():
    guard, network = (
        Autoencoder(shape=(1, 8, 8)),
        create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0),
    )
    assert timing.parts(network) == {"whole": network}
    assert timing.parts(Ensemble([network])).keys() == {"whole"}
    once = Purified(purifier=guard, network=network)
    assert timing.parts(once) == {"whole": once, "guard": guard, "classifier": network}
    twice = Purified(purifier=guard, network=once)
    assert timing.parts(twice)["classifier"] is once


def test_a_guard_that_is_no_purifier_has_no_time_of_its_own(monkeypatch):
    class Around(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x) + self.network(-x)

    monkeypatch.setattr(timing, "JOINED", {"around": Around})
    found = latency(Around(Spy("classifier", [])), X, batches=(64,), runs=2, warmup=0)
    assert [m.part for m in found] == ["whole", "classifier"]
    assert ratio(found, 64) is not None


def test_a_guard_that_needs_gradients_inside_gets_them():
    class Descent(nn.Module):
        def forward(self, x):
            with torch.enable_grad():
                z = x.detach().requires_grad_()
                return x - torch.autograd.grad(z.square().sum(), z)[0]

    model = Purified(purifier=Descent(), network=nn.Flatten())
    assert [m.runs for m in latency(model, X, runs=1, batches=(2,))] == [1, 1, 1]


def test_torch_s_random_state_and_the_model_stay_as_they_were():
    network = create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0)
    model = Purified(purifier=Autoencoder(shape=(1, 8, 8)), network=network).train()
    before = torch.get_rng_state()
    latency(model, X, runs=2, warmup=1, batches=(2,))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


class TestMemory:
    """A number has four bytes."""

    def of(self, work):
        class Work(nn.Module):
            def forward(self, x):
                work(x)
                return x

        return latency(Work(), X, runs=1, warmup=0, batches=(1,))[0].memory

    def test_what_lives_at_once_is_counted_at_its_height(self):
        def work(x):
            a = torch.zeros(1000)
            b = torch.zeros(500)
            del a
            return b, torch.zeros(250)

        assert self.of(work) == 4 * 1500

    def test_one_after_the_other_costs_the_larger(self):
        assert self.of(lambda x: [torch.zeros(n).sum().item() for n in (10, 1000, 100)]) == 4 * 1001

    def test_views_and_what_is_written_in_place_cost_nothing(self):
        def work(x):
            a = torch.zeros(1000)
            a.view(10, 100).add_(1).t()[0] *= 2

        assert self.of(work) == 4 * 1000

    def test_images_and_weights_were_there_before(self):
        layer = nn.Linear(64, 64)
        model = nn.Sequential(nn.Flatten(), layer)
        found = latency(model, X, runs=1, warmup=0, batches=(2,))
        assert found[0].memory == 4 * 2 * 64

    def test_a_larger_batch_holds_more(self):
        network = create("lenet-fig4", shape=(1, 8, 8), classes=10, seed=0)
        small, large = latency(network, X, runs=1, warmup=0, batches=(1, 10))
        assert large.memory == 10 * small.memory


class TestTimes:
    def test_the_median_and_what_99_of_100_keep_within(self):
        times = np.random.default_rng(0).permutation(np.arange(1, 101)).astype(float)
        found = one(seconds=times, batch=2)
        assert (found.median, found.p99, found.each, found.rate) == (50.5, 99, 25.25, 2 / 50.5)

    @pytest.mark.parametrize("count", [1, 2, 5, 20, 99])
    def test_of_fewer_runs_it_is_the_slowest(self, count):
        found = one(seconds=np.random.default_rng(count).random(count))
        assert found.p99 == max(found.seconds) >= found.median

    def test_the_ratio_is_paired_so_drift_does_not_reach_it(self):
        drift = np.array([1, 1, 3, 9, 27.0])
        measured = [one("whole", 64, 1.5 * drift), one("classifier", 64, drift)]
        assert ratio(measured, 64) == 1.5
        assert ratio(measured, 1) is None
        assert ratio(measured[:1], 64) is None


class TestRows:
    def test_names_and_values(self):
        measured = [one("whole", 1, [3.0]), one("classifier", 1, [1.0])]
        measured += [one("whole", 64, [128.0]), one("guard", 64, [28.0])]
        measured += [one("classifier", 64, [100.0])]
        rows = timing.rows("cae", measured, seed=4)
        assert {row["metric"]: row["value"] for row in rows} == {
            "latency1": 3.0,
            "latency1:p99": 3.0,
            "memory:1": 7.0,
            "latency1:classifier": 1.0,
            "latency64": 2.0,
            "latency64:p99": 2.0,
            "memory:64": 7.0,
            "latency64:guard": 28 / 64,
            "latency64:classifier": 100 / 64,
            "ratio:classifier": 1.28,
        }
        assert {(row["case"], row["seed"]) for row in rows} == {("cae", 4)}
        head = {"command": "bezoar", "revision": "abc", "machine": "2 cores"}
        assert tables.validate({**head, "rows": rows}) == rows

    def test_the_ratio_is_that_of_batches_of_64(self):
        measured = [one("whole", 32), one("classifier", 32)]
        metrics = [row["metric"] for row in timing.rows("cae", measured)]
        assert "ratio:classifier" not in metrics
        assert metrics[0] == "latency32"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batches": (0,)}, "batch=0: "),
        ({"runs": 0}, "runs=0: "),
        ({"warmup": -1}, "warmup=-1: "),
        ({"least": 0}, "least=0: "),
        ({"seconds": -1}, "seconds=-1: "),
    ],
)
def test_wrong_numbers_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        latency(guarded([]), X, **wrong)
