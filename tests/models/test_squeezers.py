import math

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import nn

from bezoar.classifier import prepare, weights_hash
from bezoar.models import BitDepth, MedianFilter, NonLocalMeans, Purified, create
from bezoar.models.squeezers import mirrored
from bezoar.seeds import generator


def images(count, shape, seed=0):
    return torch.rand(count, *shape, generator=generator(seed, "tests", "squeezers"))


SHAPES = [(1, 8, 8), (3, 7, 5), (2, 1, 3)]


@pytest.mark.parametrize(
    "squeezer",
    [BitDepth(bits=3), MedianFilter(), MedianFilter(size=5), NonLocalMeans(search=5)],
    ids=repr,
)
@pytest.mark.parametrize("shape", SHAPES)
def test_gives_images_of_the_same_shape_and_leaves_a_flat_one(squeezer, shape):
    made = squeezer(images(3, shape))
    assert made.shape == (3, *shape)
    assert made.min() >= 0
    assert made.max() <= 1 + 1e-6
    flat = torch.ones(1, *shape)
    torch.testing.assert_close(squeezer(flat), flat)


class TestBitDepth:
    def test_one_bit_is_black_or_white(self):
        x = torch.tensor([0.0, 0.2, 0.49, 0.51, 0.8, 1.0]).reshape(1, 1, 2, 3)
        assert BitDepth(bits=1)(x).flatten().tolist() == [0, 0, 0, 1, 1, 1]

    @pytest.mark.parametrize("bits", [1, 2, 5, 8])
    def test_has_so_many_levels_and_moves_no_value_further_than_half_a_level(self, bits):
        x = torch.linspace(0, 1, 5000).reshape(1, 1, 50, 100)
        made = BitDepth(bits=bits)(x)
        assert len(made.unique()) == 2**bits
        assert (made - x).abs().max() <= 0.5 / (2**bits - 1) + 1e-6
        assert torch.equal(BitDepth(bits=bits)(made), made)

    def test_eight_bits_keep_an_image_of_eight_bits(self):
        x = (torch.arange(256) / 255).reshape(1, 1, 16, 16)
        torch.testing.assert_close(BitDepth(bits=8)(x), x)

    def test_an_attacker_goes_through_the_identity(self):
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        guarded = prepare(Purified(purifier=BitDepth(), network=network))
        x = images(1, (1, 2, 2)).requires_grad_()
        logits = guarded(x)
        assert torch.equal(logits, network(BitDepth()(x)))
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
        torch.testing.assert_close(gradient.flatten(), network[1].weight[0])


class TestMedianFilter:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_the_filter_that_the_paper_runs(self, size, shape):
        x = images(2, shape)
        expected = median_filter(x.numpy(), size=(1, 1, size, size), mode="reflect")
        np.testing.assert_array_equal(MedianFilter(size=size)(x).numpy(), expected)

    def test_takes_the_greater_of_two_in_the_middle(self):
        x = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).reshape(1, 1, 2, 2)
        assert MedianFilter(size=2)(x)[0, 0, 1, 1] == x[0, 0, 1, 0]

    def test_a_lone_pixel_is_gone(self):
        x = torch.zeros(1, 1, 5, 5)
        x[0, 0, 2, 2] = 1
        assert not MedianFilter(size=3)(x).any()
        assert not MedianFilter(size=2)(x).any()

    def test_the_gradient_is_exact(self):
        x = images(1, (2, 4, 3)).double().requires_grad_()
        assert torch.autograd.gradcheck(MedianFilter(size=3), x)


def one_by_one(x, search, patch, strength):
    """Non-local means of one image (C, H, W), pixel by pixel as the formula says."""
    around, border = search // 2, patch // 2
    wide = np.pad(x, [(0, 0), *[(around + border,) * 2] * 2], mode="symmetric")
    made = np.zeros_like(x)

    def part(i, j):
        return wide[:, i - border : i + border + 1, j - border : j + border + 1]

    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            i, j = row + around + border, column + around + border
            total, weights = np.zeros(x.shape[0]), 0.0
            for k in range(i - around, i + around + 1):
                for m in range(j - around, j + around + 1):
                    unlike = ((part(i, j) - part(k, m)) ** 2).mean()
                    weight = math.exp(-unlike / strength**2)
                    total, weights = total + weight * wide[:, k, m], weights + weight
            made[:, row, column] = total / weights
    return made


class TestNonLocalMeans:
    @pytest.mark.parametrize(
        ("search", "patch", "strength"), [(3, 1, 0.3), (5, 3, 0.2), (7, 5, 0.5)]
    )
    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_the_formula_pixel_by_pixel(self, search, patch, strength, shape):
        x = images(2, shape).double()
        made = NonLocalMeans(search=search, patch=patch, strength=strength)(x)
        expected = np.stack([one_by_one(one, search, patch, strength) for one in x.numpy()])
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-9)

    def test_without_strength_nothing_changes_and_with_much_of_it_the_window_is_averaged(self):
        x = images(2, (1, 6, 6))
        torch.testing.assert_close(NonLocalMeans(search=5, strength=1e-4)(x), x)
        mean = nn.functional.avg_pool2d(mirrored(x, 2, 2), 5, stride=1)
        torch.testing.assert_close(NonLocalMeans(search=5, strength=1e4)(x), mean)

    def test_keeps_an_edge_and_takes_the_noise_from_both_sides(self):
        clean = torch.zeros(1, 1, 8, 8)
        clean[..., 4:] = 1
        noisy = (clean + 0.05 * (images(1, (1, 8, 8)) - 0.5)).clamp(0, 1)
        made = NonLocalMeans(search=7, strength=0.1)(noisy)
        assert (made - clean).square().sum() < (noisy - clean).square().sum()
        assert ((made > 0.5) == (clean > 0.5)).all()

    def test_the_gradient_is_exact(self):
        x = images(1, (2, 4, 3)).double().requires_grad_()
        assert torch.autograd.gradcheck(NonLocalMeans(search=3, strength=0.4), x)


def test_a_window_of_other_size_is_another_classifier():
    network = create("lenet-fig4", shape=(1, 8, 8), classes=3, seed=0)
    hashes = {
        weights_hash(Purified(purifier=purifier, network=network))
        for purifier in (MedianFilter(size=2), MedianFilter(size=3), BitDepth(), BitDepth(bits=2))
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BitDepth(bits=0), "bits=0: expected an integer from 1 to 16"),
        (lambda: BitDepth(bits=1.0), "bits=1.0: expected an integer from 1 to 16"),
        (lambda: MedianFilter(size=0), "size=0: expected an integer from 1"),
        (lambda: NonLocalMeans(search=4), "search=4: expected an odd number"),
        (lambda: NonLocalMeans(patch=0), "patch=0: expected an integer from 1"),
        (lambda: NonLocalMeans(strength=0.0), "strength=0.0: expected a number at least 1e-06"),
    ],
)
def test_refuses_settings_without_a_meaning(make, said):
    with pytest.raises(ValueError, match=said):
        make()
