"""The training loop, on trainables small enough to follow by hand."""

import math
from copy import deepcopy
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Judgement, Supervised, constant, cosine, cross_entropy, fit


class Counter:
    """Learns nothing: its only weight counts the steps, its losses are told beforehand."""

    def __init__(self, rows=10, losses=()):
        self.model, self.meter = nn.Linear(1, 1, bias=False), Meter()
        nn.init.zeros_(self.model.weight)
        self.rows, self.losses = rows, list(losses)
        self.seen, self.positions, self.epochs = [], [], []

    def begin(self, epoch):
        self.epochs.append(epoch)
        return self.rows

    def step(self, rows, position):
        self.seen.append(rows.tolist())
        self.positions.append(position)
        self.model.weight.data += 1
        return self.losses.pop(0) if self.losses else 1.0

    def state_dict(self):
        return {"weight": self.model.weight.detach().clone()}

    def load_state_dict(self, state):
        self.model.weight.data.copy_(state["weight"])


class Memory:
    """Keeps every state that it is given; hands out the one that it is made with."""

    def __init__(self, state=None):
        self.state, self.saved = state, []

    def load(self):
        return deepcopy(self.state)

    def save(self, state):
        self.saved.append(deepcopy(state))


def scores(*values):
    """A judge that gives these scores, the first one before the first epoch."""
    return lambda epoch: Judgement({"score": values[epoch + 1]}, score=values[epoch + 1])


@pytest.fixture
def images(batch):
    x, y = batch
    return ImageSet(x, y, np.arange(12), ("a", "b", "c"), "twelve")


def test_every_epoch_goes_through_every_row_once_in_an_order_of_its_own():
    counter = Counter(rows=10)
    fit(counter, epochs=2, batch=4, seed=0)
    assert list(map(len, counter.seen)) == [4, 4, 2, 4, 4, 2]
    first, second = (list(chain(*part)) for part in (counter.seen[:3], counter.seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_depends_on_the_seed_alone():
    orders = []
    for seed in (0, 0, 1):
        counter = Counter()
        fit(counter, epochs=1, batch=10, seed=seed)
        orders.append(counter.seen)
    assert orders[0] == orders[1] != orders[2]


def test_positions_tell_how_far_the_training_has_come():
    counter = Counter(rows=4)
    fit(counter, epochs=2, batch=2, seed=0)
    assert counter.positions == [0, 0.25, 0.5, 0.75]


def test_a_row_holds_the_mean_loss_over_images_not_over_steps():
    log = fit(Counter(rows=3, losses=[1.0, 4.0]), epochs=1, batch=2, seed=0)
    assert log[0]["loss"] == pytest.approx((2 * 1 + 1 * 4) / 3)


def test_the_log_starts_with_the_model_as_it_came():
    log = fit(Counter(), epochs=2, batch=10, seed=0, judge=scores(0.1, 0.2, 0.3))
    assert [(row["round"], row["score"]) for row in log] == [(0, 0.1), (1, 0.2), (2, 0.3)]
    assert "loss" not in log[0]


def test_progress_is_told_after_every_step():
    told = []
    fit(Counter(rows=3, losses=[1.0, 4.0]), epochs=1, batch=2, seed=0, on_step=told.append)
    assert [(p.epoch, p.epochs, p.done, p.rows, p.loss) for p in told] == [
        (1, 1, 2, 3, 1.0),
        (1, 1, 3, 3, 2.0),
    ]


def test_the_model_of_the_best_epoch_is_kept():
    counter = Counter(rows=1)
    fit(counter, epochs=4, batch=1, seed=0, judge=scores(0.0, 0.2, 0.9, 0.9, 0.5))
    assert counter.model.weight.item() == 2  # the first of the two that are equally good


def test_the_score_before_the_first_epoch_does_not_count():
    counter = Counter(rows=1)
    fit(counter, epochs=2, batch=1, seed=0, judge=scores(1.0, 0.2, 0.1))
    assert counter.model.weight.item() == 1


def test_without_a_score_the_last_model_is_kept():
    counter = Counter(rows=1)
    fit(counter, epochs=3, batch=1, seed=0, judge=lambda epoch: Judgement({}))
    assert counter.model.weight.item() == 3


def test_patience_ends_a_training_that_gets_no_better():
    counter = Counter(rows=1)
    judge = scores(0.0, 0.5, 0.6, 0.6, 0.4, 0.9)
    log = fit(counter, epochs=5, batch=1, seed=0, judge=judge, patience=2)
    assert len(log) == 1 + 4
    assert counter.model.weight.item() == 2


def test_a_judge_ends_the_training_when_the_aim_is_met():
    counter = Counter(rows=1)
    fit(counter, epochs=9, batch=1, seed=0, judge=lambda epoch: Judgement({}, stop=epoch == 1))
    assert counter.epochs == [0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_and_leaves_the_last_good_state(bad):
    memory = Memory()
    with pytest.raises(FloatingPointError, match=r"loss=(nan|inf) in epoch 2, step 1: .* lr"):
        fit(Counter(rows=2, losses=[1.0, 1.0, bad]), epochs=2, batch=1, seed=0, snapshot=memory)
    assert len(memory.saved) == 1
    assert memory.saved[0]["epoch"] == 1
    assert memory.saved[0]["trainable"]["weight"].item() == 2


def test_the_state_is_kept_after_every_epoch_and_as_often_as_asked():
    rare, often = Memory(), Memory()
    fit(Counter(rows=3), epochs=2, batch=1, seed=0, snapshot=rare)
    fit(Counter(rows=3), epochs=2, batch=1, seed=0, snapshot=often, snapshot_seconds=0)
    assert [(state["epoch"], state["step"]) for state in rare.saved] == [(1, 0), (2, 0)]
    assert [(state["epoch"], state["step"]) for state in often.saved] == [
        *((0, 1), (0, 2), (0, 3), (1, 0)),
        *((1, 1), (1, 2), (1, 3), (2, 0)),
    ]


def test_a_training_taken_up_does_only_the_steps_that_are_left():
    memory, whole = Memory(), Counter(rows=3)
    fit(whole, epochs=2, batch=1, seed=0, snapshot=memory, snapshot_seconds=0)
    rest = Counter(rows=3)
    fit(rest, epochs=2, batch=1, seed=0, snapshot=Memory(memory.saved[1]))
    assert rest.seen == whole.seen[2:]
    assert rest.positions == whole.positions[2:]
    assert rest.model.weight.item() == 6


def test_an_epoch_that_was_finished_but_not_judged_is_judged_when_taken_up():
    memory, judged = Memory(), []
    judge = scores(0.0, 0.1, 0.2)
    fit(
        Counter(rows=3), epochs=2, batch=1, seed=0, judge=judge, snapshot=memory, snapshot_seconds=0
    )
    unjudged = Memory(memory.saved[2])
    log = fit(Counter(rows=3), epochs=1, batch=1, seed=0, judge=judge, snapshot=unjudged)
    judged += [row["score"] for row in log]
    assert judged == [0.0, 0.1]


def test_a_finished_training_taken_up_does_nothing_and_gives_the_best_model():
    memory = Memory()
    judge = scores(0.0, 0.9, 0.2)
    log = fit(Counter(rows=1), epochs=2, batch=1, seed=0, judge=judge, snapshot=memory)
    again = Counter(rows=1)
    done = Memory(memory.saved[-1])
    assert fit(again, epochs=2, batch=1, seed=0, judge=judge, snapshot=done) == log
    assert not again.seen
    assert again.model.weight.item() == 1


def test_the_cost_so_far_is_taken_up_too():
    memory = Memory()
    counter = Counter(rows=1)
    counter.meter.forward = 5
    fit(counter, epochs=1, batch=1, seed=0, snapshot=memory)
    again = Counter(rows=1)
    fit(again, epochs=1, batch=1, seed=0, snapshot=Memory(memory.saved[-1]))
    assert again.meter.forward == 5
    assert again.meter.seconds >= counter.meter.seconds > 0


def test_the_model_learns_in_train_mode_and_is_judged_and_handed_back_in_eval_mode():
    counter, learning, judging = Counter(rows=1), [], []
    fit(
        counter,
        epochs=1,
        batch=1,
        seed=0,
        judge=lambda epoch: Judgement({}, score=judging.append(counter.model.training)),
        on_step=lambda progress: learning.append(counter.model.training),
    )
    assert (learning, judging, counter.model.training) == ([True], [False, False], False)


def test_torchs_global_random_state_is_neither_read_nor_changed(images, linear):
    outcomes = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model = nn.Sequential(nn.Dropout(0.5), deepcopy(linear))
        meter = Meter()
        learning = Supervised(model, images, loss=cross_entropy(meter), lr=0.1, meter=meter)
        fit(learning, epochs=1, batch=4, seed=0)
        assert torch.equal(torch.get_rng_state(), before)
        outcomes.append(model[1][1].weight.detach())
    assert torch.equal(*outcomes)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("batch", 0), ("epochs", 1.5)])
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: expected an integer >= 1"):
        fit(Counter(), **{"epochs": 1, "batch": 1, "seed": 0, name: value})


def test_the_first_step_of_adam_moves_every_weight_by_the_learning_rate(images, linear):
    # m / sqrt(v) is g / |g| after one step: the sign of the gradient, whatever its size.
    x, y = images.batch(slice(None))
    before = linear[1].weight.detach().clone().requires_grad_()
    logits = F.linear(x.flatten(1), before, linear[1].bias.detach())
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), before)
    meter = Meter()
    learning = Supervised(linear, images, loss=cross_entropy(meter), lr=0.01, meter=meter)
    fit(learning, epochs=1, batch=12, seed=0)
    expected = before - 0.01 * gradient.sign()
    torch.testing.assert_close(linear[1].weight, expected, rtol=0, atol=1e-6)
    assert (meter.images, meter.forward, meter.backward) == (12, 12, 12)


def test_a_schedule_of_zero_leaves_the_weights_alone(images, linear):
    before = linear[1].weight.detach().clone()
    meter = Meter()
    loss = cross_entropy(meter)
    learning = Supervised(
        linear, images, loss=loss, lr=0.1, meter=meter, schedule=lambda position: 0.0
    )
    fit(learning, epochs=1, batch=4, seed=0)
    assert torch.equal(linear[1].weight, before)


def test_schedules_start_at_one_and_cosine_ends_at_zero():
    assert [constant(position) for position in (0, 0.5, 1)] == [1, 1, 1]
    assert [cosine(position) for position in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_a_frozen_network_is_refused_before_it_is_trained(images, linear):
    meter = Meter()
    with pytest.raises(ValueError, match=r"call model\.requires_grad_\(True\)"):
        Supervised(
            linear.requires_grad_(False), images, loss=cross_entropy(meter), lr=0.1, meter=meter
        )


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf])
def test_a_learning_rate_out_of_range_is_refused(images, linear, lr):
    meter = Meter()
    with pytest.raises(ValueError, match=f"lr={lr}: expected a number at least 0"):
        Supervised(linear, images, loss=cross_entropy(meter), lr=lr, meter=meter)
