from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bezoar.seeds import Noise, derive, generator, hashed

SEEDS = st.integers(0, 2**63 - 1)
ROWS = st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True)
SHAPE = (1, 2, 3)


def noise(rows, *, seed=0, stream="tests", draw=0):
    return Noise(seed, stream, np.array(rows), np.full(len(rows), draw))


class TestDerive:
    def test_is_63_bits_of_blake2b_over_the_path(self):
        digest = blake2b(b"7/pgd/mnist/3", digest_size=8).hexdigest()
        assert derive(7, "pgd", "mnist", 3) == int(digest, 16) // 2

    def test_stays_what_it_is_so_that_old_runs_can_be_repeated(self):
        # Half of what `printf 0/order/1 | b2sum -l 64` prints.
        assert derive(0, "order", 1) == 2961819992523135983

    @given(seed=SEEDS, name=st.text(), number=st.integers())
    def test_fits_a_generator(self, seed, name, number):
        assert 0 <= derive(seed, name, number) < 2**63

    @given(seed=SEEDS, name=st.text())
    def test_another_seed_or_name_is_another_stream(self, seed, name):
        names = {derive(seed, name), derive(seed + 1, name), derive(seed, name + "x")}
        assert len(names | {derive(seed, name, 0)}) == 4


class TestGenerator:
    def test_repeats(self):
        first, second = (torch.rand(4, generator=generator(3, "a")) for _ in range(2))
        assert torch.equal(first, second)

    def test_streams_differ(self):
        first, second = (torch.rand(4, generator=generator(3, name)) for name in "ab")
        assert not torch.equal(first, second)

    def test_leaves_the_global_state_alone(self):
        state = torch.get_rng_state()
        torch.rand(4, generator=generator(3, "a"))
        noise([1, 2]).uniform(SHAPE)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [Noise.uniform, Noise.normal])
class TestNoise:
    @given(rows=ROWS, seed=SEEDS)
    def test_of_an_image_does_not_depend_on_its_neighbours(self, kind, rows, seed):
        together = kind(noise(rows, seed=seed), SHAPE)
        alone = torch.cat([kind(noise([row], seed=seed), SHAPE) for row in rows])
        assert torch.equal(together, alone)

    @given(rows=ROWS, data=st.data())
    def test_follows_its_image_in_any_order(self, kind, rows, data):
        order = np.array(data.draw(st.permutations(range(len(rows)))))
        shuffled = noise(np.array(rows)[order])
        assert torch.equal(kind(shuffled, SHAPE), kind(noise(rows), SHAPE)[order])

    @given(row=st.integers(0, 2**40), draw=st.integers(0, 2**40), seed=SEEDS)
    def test_another_image_draw_seed_or_stream_is_other_noise(self, kind, row, draw, seed):
        here = noise([row], seed=seed, draw=draw + 1)
        others = [
            replace(here, index=here.index + 1),
            replace(here, draws=here.draws + 1),
            replace(here, seed=seed + 1),
            replace(here, stream="tests/"),
            replace(here, index=here.index + 1, draws=here.draws - 1),
            replace(here, index=here.draws, draws=here.index + 2**41),
        ]
        mine = kind(here, SHAPE)
        assert not any((kind(other, SHAPE) == mine).any() for other in others)

    def test_is_float32_of_the_shape_asked_for(self, kind):
        values = kind(noise([0, 5]), (3, 2, 4))
        assert values.shape == (2, 3, 2, 4)
        assert values.dtype == torch.float32

    def test_draw_0_is_the_first(self, kind):
        index = np.array([4, 2])
        first = Noise.first(0, "tests", index)
        assert torch.equal(kind(first, SHAPE), kind(noise([4, 2]), SHAPE))

    def test_taking_rows_gives_each_image_its_new_draw(self, kind):
        taken = noise([4, 2, 9]).take(np.array([2, 0]), np.array([0, 5]))
        expected = torch.cat([kind(noise([9]), SHAPE), kind(noise([4], draw=5), SHAPE)])
        assert torch.equal(kind(taken, SHAPE), expected)

    def test_needs_a_draw_for_every_image(self, kind):
        with pytest.raises(ValueError, match="zip"):
            kind(Noise(0, "tests", np.arange(3), np.zeros(2, dtype=np.int64)), SHAPE)


@given(rows=ROWS, seed=SEEDS)
def test_uniform_noise_lies_in_minus_1_to_1(rows, seed):
    values = noise(rows, seed=seed).uniform((100,))
    assert ((values >= -1) & (values < 1)).all()


def test_normal_noise_has_mean_0_and_variance_1():
    values = noise(range(100)).normal((100,)).double()
    assert values.mean().abs() < 0.04
    assert (values.var() - 1).abs() < 0.06


def test_images_draws_and_pixels_are_uncorrelated():
    by_image = noise(range(1000)).uniform((2,)).double()
    by_draw = noise(range(1000), draw=1).uniform((2,)).double()
    table = torch.cat([by_image, by_draw, by_image.roll(1, dims=0)], dim=1)
    off_diagonal = torch.corrcoef(table.T) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.13


class TestHashed:
    KEYS = torch.tensor([1234567, 2**63 - 1, 0])

    def test_is_the_hash_of_the_paper(self):
        # The first outputs of the published generator with seed 1234567; ours are their top bits.
        words = [6457827717110365317, 3203168211198807973, 9817491932198370423]
        found = hashed(self.KEYS[:1], torch.tensor([0]), (4,))[0, 1:]
        assert found.tolist() == [(word >> 40) / 2**24 for word in words]

    def test_keys_steps_and_elements_give_other_numbers_and_neighbours_none(self):
        steps = torch.tensor([5, 5, 6])
        whole = hashed(self.KEYS, steps, SHAPE)
        assert whole.shape == (3, *SHAPE)
        assert len(set(whole.flatten().tolist())) == whole.numel()
        for i in range(3):
            alone = hashed(self.KEYS[i : i + 1], steps[i : i + 1], SHAPE)
            assert torch.equal(alone[0], whole[i])
        assert not torch.equal(hashed(self.KEYS, steps + 1, SHAPE), whole)

    def test_is_uniform_in_every_direction(self):
        keys = noise(range(40)).keys()
        draws = hashed(keys[:, None].expand(-1, 30).flatten(), torch.arange(30).repeat(40), (25,))
        cube = draws.reshape(40, 30, 25).double()
        assert 0 <= cube.min() <= cube.max() < 1
        for dims in [(0, 1), (0, 2), (1, 2)]:
            share = (cube.mean(dim=dims) - 0.5) * np.sqrt(
                12 * cube.numel() / cube.mean(dims).numel()
            )
            assert share.abs().max() < 4.5  # standard deviations, of at most 40
        counts = torch.histc(cube.flatten(), 20, 0, 1)
        expected = cube.numel() / 20
        assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 df, p = 0.001

    def test_a_draw_has_its_own_key(self):
        keys = torch.cat([noise([3, 4]).keys(), noise([3, 4], draw=1).keys(), noise([3]).keys()])
        assert len(set(keys.tolist())) == 4
        assert keys[0] == keys[4]
        assert (keys >= 0).all()
