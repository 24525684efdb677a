"""What every attack promises, whatever its mathematics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import (
    APGD,
    APGDL1,
    ATTACKS,
    BIM,
    CWL2,
    DDN,
    DIFGSM,
    EAD,
    FAB,
    FGSM,
    FMN,
    JSMA,
    LBFGS,
    MIFGSM,
    NES,
    NIFGSM,
    PGD,
    PGDL2,
    RFGSM,
    SIFGSM,
    SPSA,
    TIFGSM,
    VMIFGSM,
    ZOO,
    Admix,
    APGDTargeted,
    AutoAttack,
    AutoAttackPlus,
    AutoAttackRand,
    Boundary,
    BrendelBethge,
    CWLinf,
    DeepFool,
    FABTargeted,
    FGSMRandomStart,
    Fitted,
    GeoDA,
    HopSkipJump,
    NewtonFool,
    OnePixel,
    Pixle,
    SigmaZero,
    SignOPT,
    SimBA,
    Spatial,
    Square,
    SquareL2,
    UniformNoise,
    Universal,
    Untargeted,
)
from bezoar.attacks.engine import perturb, search
from bezoar.classifier import prepare
from bezoar.data.imageset import ImageSet
from bezoar.geometry import DISTANCES
from bezoar.seeds import Noise, generator

CASES = [
    FGSM(eps=0.1),
    FGSMRandomStart(eps=0.1),
    RFGSM(eps=0.1),
    BIM(eps=0.1, steps=3),
    PGD(eps=0.1, steps=3),
    PGD(eps=0.1, steps=3, step_size=0.05, restarts=2),
    PGD(eps=0.1, steps=3, random_start=False),
    PGD(eps=0.1, steps=3, loss="margin"),
    PGDL2(eps=0.5, steps=3),
    PGDL2(eps=0.5, steps=3, step_size=0.3, restarts=2),
    PGDL2(eps=0.5, steps=3, random_start=False),
    APGD(eps=0.1, steps=5),
    APGD(eps=0.1, steps=5, restarts=2, loss="dlr"),
    APGD(eps=0.5, norm="l2", steps=5),
    APGDL1(eps=2.0, steps=6),
    APGDL1(eps=2.0, steps=5, restarts=2, loss="margin"),
    APGDTargeted(eps=0.1, steps=5, restarts=3),
    APGDTargeted(eps=0.5, norm="l2", steps=5, restarts=2),
    FAB(eps=0.1, steps=3, restarts=2),
    FAB(eps=0.5, norm="l2", steps=2, restarts=2),
    FABTargeted(eps=0.1, steps=3, restarts=3),
    FABTargeted(eps=0.5, norm="l2", steps=2, restarts=2),
    DeepFool(eps=0.5, steps=4),
    DeepFool(eps=0.1, norm="linf", steps=4, classes=2),
    DDN(eps=0.5, steps=6),
    FMN(eps=0.1, steps=6),
    FMN(eps=0.5, norm="l2", steps=6),
    FMN(eps=2.0, norm="l1", steps=6),
    FMN(eps=3, norm="l0", steps=6),
    CWL2(eps=0.5, steps=12, searches=3, lr=0.1, c=1.0),
    LBFGS(eps=0.5, steps=2, iterations=2, c=0.5),
    BrendelBethge(eps=0.5, steps=4, tries=4, restarts=1),
    BrendelBethge(eps=0.1, norm="linf", steps=3, tries=3, restarts=2),
    BrendelBethge(eps=2.0, norm="l1", steps=3, tries=3, restarts=1),
    NewtonFool(eps=0.5, steps=4, eta=0.1),
    JSMA(eps=6, steps=4),
    JSMA(eps=5, steps=4, theta=-0.3, restarts=2),
    CWLinf(eps=0.1, steps=12, iterations=4, lr=0.1, c=1.0),
    EAD(eps=2.0, steps=12, searches=3, lr=0.1, c=1.0),
    SigmaZero(eps=3, steps=6),
    Square(eps=0.1, steps=9, restarts=2),
    SquareL2(eps=0.5, steps=9, restarts=2),
    NES(eps=0.1, steps=2, samples=4),
    SPSA(eps=0.1, steps=2, samples=2, lr=0.05),
    SimBA(eps=0.5, steps=9),
    HopSkipJump(eps=0.5, steps=3, samples=10, draws=10),
    HopSkipJump(eps=0.1, norm="linf", steps=2, samples=10, draws=10, restarts=2),
    Boundary(eps=0.5, steps=8, draws=10),
    GeoDA(eps=0.5, steps=2, samples=10, sigma=0.02, draws=10),
    GeoDA(eps=0.1, norm="linf", steps=2, samples=10, sigma=0.02, frequencies=2, draws=10),
    SignOPT(eps=0.5, steps=2, samples=10, spread=0.1, draws=10),
    OnePixel(eps=1, steps=2, population=5),
    OnePixel(eps=3, steps=2, pixels=3, population=4),
    Pixle(eps=20, steps=7, tries=3),
    Pixle(eps=8, steps=5, tries=1, least=1, most=2),
    ZOO(eps=0.5, steps=3, coordinates=4),
    Spatial(eps=1.0, steps=4),
    Spatial(eps=9.0, steps=4, angle=60, shift=0.3),
    AutoAttack(eps=0.1, steps=3, targets=2, queries=5),
    AutoAttack(eps=0.5, norm="l2", steps=2, targets=2, queries=5),
    AutoAttackPlus(eps=0.1, steps=2, starts=2, targets=2, queries=5),
    AutoAttackPlus(eps=0.5, norm="l2", steps=2, starts=1, targets=2, queries=5),
    AutoAttackRand(eps=0.1, steps=3),
    AutoAttackRand(eps=0.5, norm="l2", steps=3),
    MIFGSM(eps=0.1, steps=3),
    NIFGSM(eps=0.1, steps=3),
    SIFGSM(eps=0.1, steps=3, copies=2),
    DIFGSM(eps=0.1, steps=3),
    TIFGSM(eps=0.1, steps=3),
    VMIFGSM(eps=0.1, steps=3, samples=2),
    Admix(eps=0.1, steps=3, copies=2, samples=2),
    Universal(eps=0.1, epochs=3, batch=5),
    Universal(eps=0.5, norm="l2", epochs=3, batch=5),
    UniformNoise(eps=0.1),
    UniformNoise(eps=0.1, restarts=2),
]
STARTS = (APGDL1, FGSMRandomStart, RFGSM, PGD, PGDL2, APGD, UniformNoise, Square, SquareL2)
RANDOM = [
    case for case in CASES if isinstance(case, STARTS) and getattr(case, "random_start", True)
]
DECISIONS = (HopSkipJump, Boundary, GeoDA, SignOPT)
NEAREST = (
    FAB,
    FABTargeted,
    DeepFool,
    DDN,
    FMN,
    CWL2,
    CWLinf,
    EAD,
    SigmaZero,
    LBFGS,
    BrendelBethge,
    NewtonFool,
    JSMA,
    SimBA,
    ZOO,
    OnePixel,
    Pixle,
    Spatial,
    *DECISIONS,
)
NO_GRADIENT = (
    Square,
    SquareL2,
    NES,
    SPSA,
    SimBA,
    ZOO,
    OnePixel,
    Pixle,
    Spatial,
    Universal,
    UniformNoise,
    *DECISIONS,
)
LINF = [case for case in CASES if case.norm == "linf"]


def noise_of(rows, seed=0):
    return Noise.first(seed, "tests", np.asarray(rows))


def ready(attack, model, shape=(1, 4, 5)):
    """The attack, fitted where it has to see other images first: twelve, most of class 0."""
    x = torch.rand(12, *shape, generator=generator(0, "tests", "others"))
    y = torch.tensor([0] * 9 + [1] * 3)
    others = ImageSet(x, y, np.arange(12), ("a", "b", "c"), "others/validation")
    return attack.fit(model, others, seed=0) if isinstance(attack, Fitted) else attack


def attacked(engine, attack, model, x, y, *, rows=None, seed=0, batch=128):
    rows = np.arange(len(x)) if rows is None else np.asarray(rows)
    attack = ready(attack, model, x.shape[1:])
    return engine(attack, prepare(model), x, Untargeted(y), noise_of(rows, seed), batch=batch)


def classifier(shape, classes, *, dtype=torch.float32):
    """A linear classifier of images of any shape, its weights from a named stream."""
    rng = generator(0, "tests", "classifier", str(shape), classes)
    layer = nn.Linear(int(np.prod(shape)), classes)
    layer.weight.data = torch.randn(layer.weight.shape, generator=rng)
    layer.bias.data = torch.zeros(classes)
    return nn.Sequential(nn.Flatten(), layer).to(dtype)


@pytest.fixture
def right(convnet, batch):
    """The shared images with the classes that the small network gives them."""
    x, _ = batch
    return x, convnet(x).argmax(dim=1).detach()


@pytest.fixture
def mixed():
    """A network with layers in both modes, frozen and free weights, a gradient and a hook."""
    torch.nn.init.constant_((conv := nn.Conv2d(1, 4, 3)).weight, 0.1)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 3))
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[4].bias.grad = torch.ones(3)
    model.register_forward_hook(lambda module, inputs, output: None)
    return model


def state_of(model):
    return {
        "values": [value.tolist() for value in model.state_dict().values()],
        "modes": [module.training for module in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "hooks": [list(module._forward_hooks) for module in model.modules()],
        "layout": [value.stride() for value in model.state_dict().values()],
    }


def test_every_attack_in_the_table_has_a_case():
    assert {type(case) for case in CASES} == set(ATTACKS.values())


@pytest.mark.parametrize("attack", CASES, ids=repr)
@pytest.mark.parametrize("engine", [perturb, search])
class TestContract:
    def test_stays_in_the_ball_and_in_the_box(self, engine, attack, convnet, right):
        x, y = right
        x_adv = attacked(engine, attack, convnet, x, y).x_adv
        assert x_adv.shape == x.shape
        assert x_adv.dtype == torch.float32
        assert DISTANCES[attack.norm](x_adv, x).max() <= attack.eps + 1e-6
        assert ((x_adv >= 0) & (x_adv <= 1)).all()

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_stays_in_the_box_at_its_corners(self, engine, attack, value, convnet):
        x = torch.full((4, 1, 4, 5), value)
        x_adv = attacked(engine, attack, convnet, x, torch.tensor([0, 1, 2, 0])).x_adv
        assert ((x_adv >= 0) & (x_adv <= 1)).all()
        assert DISTANCES[attack.norm](x_adv, x).max() <= attack.eps + 1e-6

    def test_a_ball_without_radius_holds_the_clean_image_only(self, engine, attack, convnet, right):
        x, y = right
        x_adv = attacked(engine, replace(attack, eps=0), convnet, x, y).x_adv
        assert torch.equal(x_adv, x)

    def test_same_seed_same_bytes(self, engine, attack, convnet, right):
        first, second = (attacked(engine, attack, convnet, *right, seed=7) for _ in range(2))
        assert torch.equal(first.x_adv, second.x_adv)
        assert torch.equal(first.first_success, second.first_success)

    @pytest.mark.parametrize("size", [1, 3, 5])
    def test_the_size_of_a_batch_changes_nothing(self, engine, attack, size, convnet, right):
        small = attacked(engine, attack, convnet, *right, batch=size)
        large = attacked(engine, attack, convnet, *right, batch=128)
        torch.testing.assert_close(small.x_adv, large.x_adv, atol=1e-6, rtol=0)
        assert torch.equal(small.first_success, large.first_success)
        assert torch.equal(small.forward, large.forward)
        assert torch.equal(small.backward, large.backward)

    def test_order_and_neighbours_change_nothing(self, engine, attack, convnet, right):
        x, y = right
        rows = torch.tensor([9, 2, 11, 0, 5])
        whole = attacked(engine, attack, convnet, x, y)
        some = attacked(engine, attack, convnet, x[rows], y[rows], rows=rows, batch=2)
        torch.testing.assert_close(some.x_adv, whole.x_adv[rows], atol=1e-6, rtol=0)
        assert torch.equal(some.first_success, whole.first_success[rows])

    @pytest.mark.parametrize("shape", [(1, 4, 5), (3, 5, 2), (1, 1, 1)], ids=str)
    @pytest.mark.parametrize("classes", [2, 3])
    def test_takes_images_of_any_shape_and_two_classes_or_more(
        self, engine, attack, shape, classes
    ):
        x = torch.rand(5, *shape, generator=generator(0, "tests", "shapes"))
        y = torch.arange(5) % classes
        found = attacked(engine, attack, classifier(shape, classes), x, y)
        assert found.x_adv.shape == x.shape
        assert found.first_success.shape == found.forward.shape == found.zero_gradient.shape == (5,)

    def test_keeps_double_precision(self, engine, attack, batch):
        x, y = batch
        model = classifier((1, 4, 5), 3, dtype=torch.float64)
        assert attacked(engine, attack, model, x.double(), y).x_adv.dtype == torch.float64

    def test_takes_an_image_that_nothing_can_move(self, engine, attack, batch):
        # All gradients are zero; the class is the first, whatever the image.
        x, _ = batch
        model = classifier((1, 4, 5), 3)
        model[1].weight.data.zero_()
        found = attacked(engine, attack, model, x, torch.zeros(12, dtype=torch.int64))
        assert torch.isfinite(found.x_adv).all()
        assert (found.first_success == -1).all()
        assert (found.zero_gradient == (not isinstance(attack, NO_GRADIENT))).all()

    def test_sees_no_zero_gradient_where_there_is_none(self, engine, attack, convnet, right):
        assert not attacked(engine, attack, convnet, *right).zero_gradient.any()

    def test_leaves_images_classes_and_global_rng_alone(self, engine, attack, convnet, right):
        x, y = right
        images, classes, state = x.clone(), y.clone(), torch.get_rng_state()
        found = attacked(engine, attack, convnet, x, y)
        found.x_adv.zero_()
        assert torch.equal(x, images)
        assert torch.equal(y, classes)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attack", CASES, ids=repr)
class TestCall:
    def test_leaves_the_classifier_as_it_was(self, attack, mixed, batch):
        before = state_of(mixed)
        ready(attack, mixed)(mixed, *batch)
        assert state_of(mixed) == before

    def test_is_the_search_with_noise_by_position(self, attack, convnet, right):
        x, y = right
        noise = Noise.first(3, type(attack).__name__, np.arange(12))
        attack = ready(attack, convnet)
        expected = search(attack, prepare(convnet), x, Untargeted(y), noise).x_adv
        assert torch.equal(attack(convnet, x, y, seed=3), expected)

    def test_takes_a_goal_in_place_of_classes(self, attack, convnet, right):
        x, y = right
        attack = ready(attack, convnet)
        assert torch.equal(attack(convnet, x, Untargeted(y)), attack(convnet, x, y))

    def test_refuses_what_is_no_image(self, attack, convnet, batch):
        x, y = batch
        with pytest.raises(
            ValueError, match=r"x with values in .*: expected \[0, 1\]; divide by 255"
        ):
            attack(convnet, 255 * x, y)

    @pytest.mark.parametrize("eps", [-0.1, float("nan"), -float("inf")])
    def test_refuses_a_radius_that_is_none(self, attack, eps):
        with pytest.raises(ValueError, match=rf"eps={eps!r}: expected a number at least 0"):
            replace(attack, eps=eps)

    def test_is_a_value_whose_text_is_the_recipe(self, attack):
        assert eval(repr(attack)) == attack
        assert hash(replace(attack)) == hash(attack)


@pytest.mark.parametrize("attack", [c for c in CASES if isinstance(c, Fitted)], ids=repr)
class TestFitted:
    def test_does_not_run_before_it_was_fitted(self, attack, convnet, batch):
        with pytest.raises(ValueError, match="expected one that was fitted; call its fit on other"):
            attack(convnet, *batch)

    def test_does_not_run_on_images_of_another_shape(self, attack, convnet, batch):
        # One channel would be spread over three.
        x, y = batch
        with pytest.raises(ValueError, match=r"images of shape \(3, 4, 5\): expected \(1, 4, 5\)"):
            ready(attack, convnet)(convnet, x.expand(-1, 3, -1, -1), y)

    def test_what_it_learnt_is_part_of_its_value_and_of_its_text(self, attack, convnet, linear):
        first, again = (ready(attack, convnet) for _ in range(2))
        assert first == again
        assert hash(first) == hash(again)
        assert repr(first) == repr(again)
        assert f"learnt=Learnt({first.learnt.hash} from others/validation)" in repr(first)
        assert replace(first, learnt=None) == attack
        tensors = {name: tensor.clone() for name, tensor in first.learnt.tensors.items()}
        next(iter(tensors.values())).flatten()[3] += 1e-6
        other = replace(first, learnt=replace(first.learnt, tensors=tensors))
        assert other != first
        assert repr(other) != repr(first)

    def test_fitting_leaves_torchs_random_state_alone(self, attack, convnet):
        state = torch.get_rng_state()
        ready(attack, convnet)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "attack", [case for case in CASES if not isinstance(case, NEAREST)], ids=repr
)
def test_one_that_stays_in_a_ball_refuses_one_without_end(attack):
    with pytest.raises(ValueError, match=r"eps=inf: expected a number at least 0"):
        replace(attack, eps=float("inf"))


@pytest.mark.parametrize("attack", RANDOM, ids=repr)
class TestRandomStart:
    def start(self, attack, x, noise):
        return attack.best(attack.start(x, None, noise))

    def test_an_image_starts_where_its_own_noise_says(self, attack, batch):
        x, _ = batch
        rows = [7, 1, 4]
        whole = self.start(attack, x, noise_of(range(12)))
        assert torch.equal(self.start(attack, x[rows], noise_of(rows)), whole[rows])

    def test_seeds_streams_and_draws_give_other_starts(self, attack, batch):
        x, _ = batch
        first = noise_of(range(12))
        others = [
            replace(first, seed=1),
            replace(first, stream="other"),
            replace(first, draws=first.draws + 1),
            replace(first, index=first.index + 12),
        ]
        start = self.start(attack, x, first)
        assert not any(torch.equal(self.start(attack, x, other), start) for other in others)


@pytest.mark.parametrize("attack", LINF, ids=repr)
@pytest.mark.parametrize("engine", [perturb, search])
@pytest.mark.parametrize("eps", [1.5, 3.0, 1e300])
def test_beyond_radius_1_the_ball_is_the_box(engine, attack, eps, convnet, right):
    whole = attacked(engine, replace(attack, eps=1), convnet, *right)
    beyond = attacked(engine, replace(attack, eps=eps), convnet, *right)
    assert torch.equal(beyond.x_adv, whole.x_adv)
    assert torch.equal(beyond.forward, whole.forward)


# Twelve images that a two-class affine network holds right by growing margins; nothing is cut by
# the box at the radii below.
W = torch.tensor([1.0, -2.0, 3.0, -4.0]).repeat(5)
MARGINS = torch.linspace(0.5, 11.5, 12)


@pytest.fixture
def affine():
    layer = nn.Linear(20, 2)
    layer.weight.data = torch.stack([W, torch.zeros(20)])
    layer.bias.data = torch.tensor([-W.sum().item() / 2, 0])
    x = (0.5 + MARGINS[:, None] * W / W.square().sum()).reshape(12, 1, 4, 5)
    return nn.Sequential(nn.Flatten(), layer), x, torch.zeros(12, dtype=torch.int64)


def standing(attack, case):
    model, x, y = case
    x_adv = attacked(search, attack, model, x, y).x_adv
    return int((model(x_adv).argmax(dim=1) == y).sum())


@pytest.mark.parametrize("attack", CASES, ids=repr)
def test_a_larger_ball_never_leaves_more_standing(attack, affine):
    counts = [standing(replace(attack, eps=eps), affine) for eps in (0, 0.02, 0.05, 0.1, 0.2)]
    assert counts[0] == 12
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.2, step_size=0.02),
        PGD(eps=0.2, step_size=0.02, random_start=False),
        PGDL2(eps=1.5, step_size=0.1),
        PGDL2(eps=1.5, step_size=0.1, random_start=False),
    ],
    ids=repr,
)
def test_more_steps_never_leave_more_standing(attack, affine):
    counts = [standing(replace(attack, steps=steps), affine) for steps in (1, 2, 4, 8, 16)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.05, steps=1),
        PGDL2(eps=0.3, steps=1),
        APGD(eps=0.05, steps=1),
        Square(eps=0.2, steps=3),
        UniformNoise(eps=0.4),
    ],
    ids=repr,
)
def test_more_restarts_never_leave_more_standing(attack, affine):
    counts = [standing(replace(attack, restarts=restarts), affine) for restarts in (1, 2, 4, 8)]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("attack", [PGD(), PGDL2()], ids=repr)
@pytest.mark.parametrize("steps", [0, -1, 2.0, True, None])
def test_refuses_a_number_of_steps_that_is_none(attack, steps):
    with pytest.raises(ValueError, match=rf"steps={steps}: expected an integer >= 1"):
        replace(attack, steps=steps)


@pytest.mark.parametrize("attack", [PGD(), PGDL2(), UniformNoise()], ids=repr)
@pytest.mark.parametrize("restarts", [0, -1, 2.0, True])
def test_refuses_a_number_of_restarts_that_is_none(attack, restarts):
    with pytest.raises(ValueError, match=rf"restarts={restarts}: expected an integer >= 1"):
        replace(attack, restarts=restarts)


@pytest.mark.parametrize("attack", [PGD(), PGDL2()], ids=repr)
@pytest.mark.parametrize("step_size", [-0.1, float("nan"), float("inf")])
def test_refuses_a_step_that_is_none(attack, step_size):
    with pytest.raises(ValueError, match=rf"step_size={step_size!r}: expected a number"):
        replace(attack, step_size=step_size)


@pytest.mark.parametrize("alpha", [-0.1, 2.5, float("nan")])
def test_refuses_a_step_beyond_the_ball(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha!r}: expected a number in \[0, 2\]"):
        FGSMRandomStart(alpha=alpha)
