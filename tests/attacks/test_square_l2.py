import numpy as np
import pytest
import torch

from bezoar.attacks import SquareL2, Untargeted
from bezoar.attacks.engine import search
from bezoar.attacks.oracle import Answers
from bezoar.attacks.square_l2 import _moved, _peak, _tile
from bezoar.geometry import l2_distance, norms_l2
from bezoar.seeds import Noise, generator

ONES = Untargeted(torch.ones(8, dtype=torch.int64))


def noise_of(count):
    return Noise.first(0, "tests", np.arange(count))


def test_peaks_are_rings_that_rise_towards_the_middle():
    # n = 2: 1/9 outside, 1/9 + 1/4 around the middle, 1/9 + 1/4 + 1 in it.
    out, ring, top = 1 / 9, 1 / 9 + 1 / 4, 1 / 9 + 1 / 4 + 1
    line = [out, ring, ring, ring, out]
    expected = [[out] * 5, line, [out, ring, top, ring, out], line, [out] * 5]
    torch.testing.assert_close(_peak(5, 5), torch.tensor(expected))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 14])
def test_tiles_have_length_one_and_two_signs(length):
    tile = _tile(length)
    assert tile.shape == (length, length)
    torch.testing.assert_close(tile.norm(), torch.ones(()))
    half = length // 2
    assert (tile[:, :half] >= 0).all()
    assert (tile[:, half:] <= 0).all()


def test_a_move_keeps_the_norm_and_empties_one_window():
    rng = generator(0, "tests", "square")
    change = torch.randn(40, 3, 12, 10, generator=rng)
    draws = torch.rand(40, 8, generator=rng)
    moved = _moved(change, draws, torch.zeros(40, 1, 1, 1), 3)
    torch.testing.assert_close(norms_l2(moved), norms_l2(change))
    touched = (moved != change).any(dim=1).sum(dim=(1, 2))
    assert (touched <= 18).all()
    assert (touched >= 9).all()
    emptied = (moved == 0).all(dim=1).sum(dim=(1, 2))
    apart = touched == 18
    assert apart.any()
    assert (emptied[apart] == 9).all()


def test_a_move_spends_what_is_left_of_the_radius():
    rng = generator(0, "tests", "square")
    change = torch.randn(10, 2, 9, 9, generator=rng)
    moved = _moved(change, torch.rand(10, 7, generator=rng), torch.full((10, 1, 1, 1), 0.5), 3)
    spent = norms_l2(moved).square() - norms_l2(change).square()
    torch.testing.assert_close(spent.flatten(), torch.ones(10), atol=1e-3, rtol=0)


def test_starts_on_the_sphere_and_stays_in_the_ball():
    x = torch.full((8, 1, 15, 15), 0.5)
    weight = torch.randn(3, 225, generator=generator(0, "tests", "weights"))

    class Linear(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1) @ weight.T

    attack = SquareL2(eps=1.0, steps=60)
    oracle = Answers(Linear(), attack, x, ONES)
    state = attack.start(x, oracle, noise_of(8))
    torch.testing.assert_close(l2_distance(state.x_adv, x), torch.ones(8))
    values = []
    for _ in range(60):
        state = attack.step(state, oracle)
        values.append(state.value)
        assert (l2_distance(state.x_adv, x) <= 1 + 1e-5).all()
    values = torch.stack(values)
    assert (values.diff(dim=0) >= 0).all()
    assert (values[-1] > values[0]).all()
    assert set(oracle.forward.tolist()) == {60}
    assert not oracle.backward.any()


def test_leaves_standing_what_no_image_of_the_ball_fools(blocks, images):
    found = search(SquareL2(eps=0.2, steps=500), blocks, images, ONES, noise_of(8))
    weight, logits = blocks[1].weight, blocks(images)
    margins = logits[:, 1:2] - logits[:, [0, 2]]
    norms = torch.stack([(weight[1] - weight[k]).norm() for k in (0, 2)])
    least = (margins / norms).amin(dim=1)
    fooled = found.first_success >= 0
    assert not fooled[least > 0.2].any()
    assert fooled[least < 0.1].all()
    assert found.backward.tolist() == [0] * 8
