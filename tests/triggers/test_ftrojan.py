import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from bezoar.triggers import FTrojan

# Rows: luma, blue and red difference (ITU-R BT.601, full range).
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def through_the_transform(image, magnitude):
    """The steps of the paper on one image ``(3, H, W)``, one after the other."""
    ycc = np.einsum("ab,bhw->ahw", TO_YCC, image)
    height, width = image.shape[1:]
    for channel in (1, 2):
        coefficients = dctn(ycc[channel], norm="ortho")
        coefficients[height // 2 - 1, width // 2 - 1] += magnitude
        coefficients[height - 1, width - 1] += magnitude
        ycc[channel] = idctn(coefficients, norm="ortho")
    return np.einsum("ab,bhw->ahw", np.linalg.inv(TO_YCC), ycc)


@pytest.mark.parametrize("shape", [(8, 8), (6, 10), (32, 32)])
def test_is_the_transform_of_the_paper_step_by_step(shape):
    image = np.random.default_rng(0).uniform(0.3, 0.7, (3, *shape))
    stamped = FTrojan().stamp(torch.from_numpy(image).float()[None])[0]
    expected = through_the_transform(image, 30 / 255)
    np.testing.assert_allclose(stamped, expected, atol=1e-4)


def test_a_larger_magnitude_goes_further_and_is_cut_to_the_box():
    x = torch.full((1, 3, 8, 8), 0.5)
    moved = [(FTrojan(magnitude=m).stamp(x) - x).abs().mean() for m in (0.1, 0.2, 20.0)]
    assert moved == sorted(moved)
    assert moved[0] < moved[1] < moved[2] <= 0.5


def test_refuses_images_without_colours():
    with pytest.raises(ValueError, match=r"images of 1 channels: expected 3"):
        FTrojan().stamp(torch.zeros(1, 1, 8, 8))
