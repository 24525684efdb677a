import io

import numpy as np
import pytest
import torch
from PIL import Image

from bezoar.classifier import prepare, weights_hash
from bezoar.models import JPEG
from bezoar.models import jpeg as module
from bezoar.seeds import generator

SHAPES = [(1, 8, 8), (1, 13, 21), (3, 32, 32), (3, 17, 9), (3, 1, 1), (1, 1, 5)]


def smooth(count, shape):
    """Images with detail at all scales but little at the finest, as photographs have it."""
    coarse = torch.rand(count, shape[0], 4, 4, generator=generator(0, "tests", "jpeg"))
    fine = torch.rand(count, *shape, generator=generator(1, "tests", "jpeg"))
    grown = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    return (0.8 * grown + 0.2 * fine).clamp(0, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_encoder_of_pillow_image_by_image(shape):
    x = smooth(3, shape)
    made = JPEG(quality=30)(x)
    assert made.shape == x.shape
    for image, seen in zip(x, made, strict=True):
        pixels = (image * 255).round().byte().numpy().transpose(1, 2, 0)
        file = io.BytesIO()
        colour = Image.fromarray(pixels) if len(image) == 3 else Image.fromarray(pixels[:, :, 0])
        colour.save(file, "JPEG", quality=30)
        read = np.asarray(Image.open(file)).reshape(pixels.shape).transpose(2, 0, 1)
        assert torch.equal((seen * 255).round().byte(), torch.from_numpy(read.copy()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_with_a_hard_rounding_the_surrogate_is_the_encoder(shape, quality, monkeypatch):
    # But for the encoder's integers: a number close to the middle between two is rounded to either.
    monkeypatch.setattr(module, "_rounded", torch.round)
    purifier, x = JPEG(quality=quality), smooth(8, shape).mul(255).round() / 255
    gap = (purifier(x) - purifier.surrogate(x).clamp(0, 1)).abs()
    assert gap.mean() < 2.5 / 255


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_the_surrogate_is_closer_to_the_encoder_than_the_image_is(quality):
    purifier, x = JPEG(quality=quality), smooth(8, (3, 32, 32))
    made, found = purifier(x), purifier.surrogate(x)
    assert (made - found).abs().mean() < 0.5 * (made - x).abs().mean()


@pytest.mark.parametrize("shape", [(1, 9, 4), (3, 3, 10)])
def test_the_surrogate_has_the_gradient_of_its_own_steps(shape):
    purifier, x = JPEG(quality=50), smooth(1, shape).double().requires_grad_()
    assert torch.autograd.gradcheck(purifier.surrogate, x, eps=1e-8, atol=1e-3)


def test_black_has_a_gradient_too():
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    weights = torch.rand(16, 16, generator=generator(2, "tests", "jpeg"))
    (found,) = torch.autograd.grad((JPEG().surrogate(x) * weights).sum(), x)
    assert (found > 0).all()


def test_attacks_get_the_value_of_the_encoder_and_the_gradient_of_the_surrogate():
    purifier, x = JPEG(quality=20), smooth(2, (3, 8, 8)).requires_grad_()
    seen = prepare(purifier)(x)
    assert torch.equal(seen, purifier(x))
    (found,) = torch.autograd.grad(seen.square().sum(), x)
    (wanted,) = torch.autograd.grad(purifier.surrogate(x), x, 2 * purifier(x))
    torch.testing.assert_close(found, wanted)


def test_less_quality_loses_more_and_is_another_classifier():
    x = smooth(8, (3, 32, 32))
    lost = [(JPEG(quality=quality)(x) - x).square().mean().item() for quality in (5, 20, 60, 95)]
    assert lost == sorted(lost, reverse=True)
    assert weights_hash(JPEG(quality=20)) != weights_hash(JPEG(quality=60))


@pytest.mark.parametrize("channels", [2, 4])
def test_refuses_other_channels(channels):
    x = torch.zeros(1, channels, 8, 8)
    for call in (JPEG(), JPEG().surrogate):
        with pytest.raises(ValueError, match=f"images of {channels} channels: expected 1 or 3"):
            call(x)


@pytest.mark.parametrize("quality", [0, 101, 50.0, True])
def test_refuses_what_is_no_quality(quality):
    with pytest.raises(ValueError, match=f"quality={quality}: expected an integer from 1 to 100"):
        JPEG(quality=quality)
