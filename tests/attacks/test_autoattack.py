import numpy as np
import pytest
import torch

from bezoar.attacks import APGD, APGDTargeted, AutoAttack, FABTargeted, Square, SquareL2, Untargeted
from bezoar.attacks.engine import perturb, search
from bezoar.seeds import Noise

ATTACK = AutoAttack(eps=0.1, steps=10, targets=2, queries=20)


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


def test_each_part_gets_what_those_before_it_left(right):
    model, x, goal = right
    whole = search(ATTACK, model, x, goal, noise_of(40))
    standing, steps = torch.arange(40), 0
    forward = torch.zeros(40, dtype=torch.int64)
    for k, part in enumerate(ATTACK.parts):
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


def test_is_at_least_as_strong_as_each_part_alone(right):
    model, x, goal = right
    whole = search(ATTACK, model, x, goal, noise_of(40)).first_success >= 0
    for k, part in enumerate(ATTACK.parts):
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


def test_reaches_the_exact_robust_accuracy_of_an_affine_classifier(blocks, images):
    goal = Untargeted(torch.ones(8, dtype=torch.int64))
    x_adv = search(ATTACK, blocks, images, goal, noise_of(8)).x_adv
    assert (blocks(x_adv).argmax(dim=1) == 1).tolist() == [False] * 4 + [True] * 4


def test_is_run_by_its_parts_only(images):
    with pytest.raises(TypeError, match=r"AutoAttack\(.*; run its parts"):
        AutoAttack().start(images, None, noise_of(8))
