import math

import pytest
import torch

from bezoar.triggers import SIG


def test_adds_the_sine_of_the_paper_pixel_by_pixel():
    x = torch.full((1, 2, 3, 16), 0.5)
    stamped = SIG(delta=0.1, frequency=3.0).stamp(x)
    for column in range(16):
        expected = 0.5 + 0.1 * math.sin(2 * math.pi * column * 3 / 16)
        torch.testing.assert_close(stamped[..., column], torch.full((1, 2, 3), expected))


def test_bright_and_dark_images_are_cut_and_never_wrap_around():
    stamped = SIG(frequency=2.0).stamp(
        torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    )
    assert (stamped[0].min(), stamped[1].max()) == (0, 1)
    assert stamped[0].max() <= 40 / 255 + 1e-6
    assert stamped[1].min() >= 1 - 40 / 255 - 1e-6


@pytest.mark.parametrize("frequency", [0.0, 4.0])
def test_refuses_waves_that_the_pixels_cannot_show(frequency):
    with pytest.raises(ValueError, match=r"frequency=. on images 8 pixels wide"):
        SIG(frequency=frequency).stamp(torch.zeros(1, 1, 8, 8))
