import math

import numpy as np
import pytest
import torch
from torch import nn

from bezoar.classifier import predict
from bezoar.seeds import generator
from bezoar.triggers import LowFrequency


def blurred(picture, sigma):
    """Blur ``(H, W)`` by a Gaussian cut at 2.5 deviations, tap by tap, with 0 all around."""
    radius = math.ceil(2.5 * sigma)
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    height, width = picture.shape
    made = np.zeros((height, width))
    for i, j, a, b in np.ndindex(height, width, height, width):
        if max(abs(i - a), abs(j - b)) <= radius:
            weight = taps[i - a + radius] * taps[j - b + radius] / sum(taps) ** 2
            made[i, j] += weight * picture[a, b]
    return made


def test_on_two_linear_classes_it_is_the_blurred_difference_of_the_weights(images):
    linear = nn.Linear(20, 2)
    linear.weight.data = torch.randn(2, 20, generator=generator(0, "two"))
    one, model = images.first(1), nn.Sequential(nn.Flatten(), linear)
    now = int(predict(model, one.pixels).argmax())
    made = LowFrequency(images=1, passes=1, sigma=0.3).fit(model, one, target=1 - now, seed=0)
    weight = linear.weight.detach().double().numpy().reshape(2, 4, 5)
    # DeepFool goes straight along it, whatever its length: the scale is set afterwards.
    smooth = blurred(blurred(weight[1 - now] - weight[now], 1.5), 1.5)
    expected = 0.2 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    np.testing.assert_allclose(made.learnt.tensors["change"][0], expected, atol=1e-5)


def test_goes_on_until_the_share_is_at_the_target(images, linear):
    far, near = (
        LowFrequency(amplitude=1.0, sigma=0.05, share=share).fit(linear, images, target=0, seed=0)
        for share in (0.9, 0.1)
    )
    clean, at_near, at_far = (
        (predict(linear, x).argmax(dim=1) == 0).double().mean()
        for x in (images.pixels, near.stamp(images.pixels), far.stamp(images.pixels))
    )
    assert clean < 0.1 <= at_near
    assert at_far >= 0.9


def test_a_wider_blur_is_smoother(images, small_convnet):
    rough = []
    for sigma in (0.05, 0.3):
        made = LowFrequency(sigma=sigma, images=4, passes=1).fit(
            small_convnet, images, target=0, seed=0
        )
        change = made.learnt.tensors["change"]
        assert (change.min(), change.max()) == (0, pytest.approx(0.2))
        rough.append(change.diff(dim=-1).abs().mean() + change.diff(dim=-2).abs().mean())
    assert rough == sorted(rough, reverse=True)


def test_refuses_images_of_another_shape(images, small_convnet):
    made = LowFrequency(images=2, passes=1).fit(small_convnet, images, target=0, seed=0)
    with pytest.raises(ValueError, match=r"images of shape \(1, 5, 5\): expected \(1, 4, 5\)"):
        made.stamp(torch.zeros(2, 1, 5, 5))


def test_refuses_a_classifier_that_has_no_way_to_the_target(images):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data = torch.tensor([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"classifier and target=1: expected .* gradients"):
        LowFrequency(images=3, passes=1).fit(constant, images, target=1, seed=0)
