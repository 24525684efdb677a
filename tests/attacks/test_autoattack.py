import numpy as np
import pytest
import torch

from bezoar.attacks import (
    APGD,
    FAB,
    APGDTargeted,
    AutoAttack,
    AutoAttackPlus,
    AutoAttackRand,
    FABTargeted,
    Square,
    SquareL2,
    Untargeted,
)
from bezoar.attacks.engine import perturb, search
from bezoar.seeds import Noise

ATTACK = AutoAttack(eps=0.1, steps=10, targets=2, queries=20)
PLUS = AutoAttackPlus(eps=0.1, steps=10, starts=2, targets=2, queries=20)
RAND = AutoAttackRand(eps=0.1, steps=10)


def noise_of(count, stream="tests"):
    return Noise.first(0, stream, np.arange(count))


@pytest.fixture
def right(convnet):
    x = torch.rand(40, 1, 4, 5, generator=torch.Generator().manual_seed(5))
    return convnet.requires_grad_(False), x, Untargeted(convnet(x).argmax(dim=1))


@pytest.mark.parametrize(("norm", "square"), [("linf", Square), ("l2", SquareL2)])
def test_is_the_standard_version(norm, square):
    assert AutoAttack(eps=0.3, norm=norm).parts == (
        APGD(eps=0.3, norm=norm, steps=100, restarts=1, loss="ce"),
        APGDTargeted(eps=0.3, norm=norm, steps=100, restarts=9),
        FABTargeted(eps=0.3, norm=norm, steps=100, restarts=9),
        square(eps=0.3, steps=5000, p=0.8, restarts=1),
    )


@pytest.mark.parametrize(("norm", "square"), [("linf", Square), ("l2", SquareL2)])
def test_plus_is_the_plus_version(norm, square):
    assert AutoAttackPlus(eps=0.3, norm=norm).parts == (
        APGD(eps=0.3, norm=norm, steps=100, restarts=5, loss="ce"),
        APGD(eps=0.3, norm=norm, steps=100, restarts=5, loss="dlr"),
        FAB(eps=0.3, norm=norm, steps=100, restarts=5),
        square(eps=0.3, steps=5000, p=0.8, restarts=1),
        APGDTargeted(eps=0.3, norm=norm, steps=100, restarts=9),
        FABTargeted(eps=0.3, norm=norm, steps=100, restarts=9),
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rand_is_the_version_for_random_classifiers(norm):
    assert AutoAttackRand(eps=0.3, norm=norm).parts == (
        APGD(eps=0.3, norm=norm, steps=100, restarts=1, loss="ce"),
        APGD(eps=0.3, norm=norm, steps=100, restarts=1, loss="dlr"),
    )


@pytest.mark.parametrize(
    ("attack", "forward", "backward"),
    [
        # A start of each: its steps and the choice of its target; the last point is judged.
        (AutoAttack(steps=3, queries=5), 4 + 9 * 5 + 9 * 8 + 6, 3 + 2 * 9 * 3),
        (
            AutoAttackPlus(steps=3, queries=5),
            2 * 5 * 4 + 5 * 8 + 6 + 9 * 5 + 9 * 8,
            2 * 5 * 3 + 5 * 10 * 3 + 2 * 9 * 3,
        ),
        (AutoAttackRand(steps=3), 2 * 4, 2 * 3),
    ],
    ids=repr,
)
def test_an_image_that_stands_costs_what_the_parts_add_up_to(attack, forward, backward):
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 10))
    torch.nn.init.zeros_(flat[1].weight)
    flat[1].bias.data = -torch.arange(10.0)
    x, goal = torch.full((1, 1, 1, 1), 0.5), Untargeted(torch.tensor([0]))
    found = search(attack, flat.requires_grad_(False), x, goal, noise_of(1))
    assert (found.forward.item(), found.backward.item()) == (forward, backward)


@pytest.mark.parametrize("attack", [ATTACK, PLUS], ids=repr)
def test_each_part_gets_what_those_before_it_left(attack, right):
    model, x, goal = right
    whole = search(attack, model, x, goal, noise_of(40))
    standing, steps = torch.arange(40), 0
    forward = torch.zeros(40, dtype=torch.int64)
    for k, part in enumerate(attack.parts):
        own = Noise.first(0, f"tests/part {k}", standing.numpy())
        found = search(part, model, x[standing], goal.take(standing), own)
        forward[standing] += found.forward
        fooled = found.first_success >= 0
        rows = standing[fooled]
        assert torch.equal(whole.first_success[rows], found.first_success[fooled] + steps)
        torch.testing.assert_close(whole.x_adv[rows], found.x_adv[fooled], atol=1e-6, rtol=0)
        standing, steps = standing[~fooled], steps + part.steps * part.restarts
    assert torch.equal(whole.forward, forward)
    assert (whole.first_success[standing] == -1).all()
    assert 0 < len(standing) < 40


@pytest.mark.parametrize("attack", [ATTACK, PLUS, RAND], ids=repr)
def test_is_at_least_as_strong_as_each_part_alone(attack, right):
    model, x, goal = right
    whole = search(attack, model, x, goal, noise_of(40)).first_success >= 0
    for k, part in enumerate(attack.parts):
        alone = search(part, model, x, goal, noise_of(40, f"tests/part {k}")).first_success >= 0
        assert (whole | ~alone).all()


def test_in_whole_batches_it_keeps_the_first_part_that_fools(right):
    model, x, goal = right
    found = perturb(ATTACK, model, x, goal, noise_of(40))
    fooled = goal.reached(model(found.x_adv))
    for k, part in enumerate(ATTACK.parts):
        alone = perturb(part, model, x, goal, noise_of(40, f"tests/part {k}")).x_adv
        assert (fooled | ~goal.reached(model(alone))).all()
    assert (found.first_success == -1).all()
    # 10 steps; 10 and the choice of a target; two a step, the choice and the end; 20; to judge.
    assert found.forward.tolist() == [10 + 11 + 22 + 20 + 4] * 40


@pytest.mark.parametrize("attack", [ATTACK, PLUS, RAND], ids=repr)
def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(attack, blocks, images):
    goal = Untargeted(torch.ones(8, dtype=torch.int64))
    x_adv = search(attack, blocks, images, goal, noise_of(8)).x_adv
    assert (blocks(x_adv).argmax(dim=1) == 1).tolist() == [False] * 4 + [True] * 4


def test_is_run_by_its_parts_only(images):
    with pytest.raises(TypeError, match=r"AutoAttack\(.*; run its parts"):
        AutoAttack().start(images, None, noise_of(8))
