import pytest
import torch
import torch.nn.functional as F

from bezoar.classifier import reseeded
from bezoar.models import Resized
from bezoar.seeds import generator


def images(count, shape):
    return torch.rand(count, *shape, generator=generator(0, "tests", "resized"))


def possible(image, low, high):
    """Every result for one image, by resizing and padding it: (height, top, left) to image."""
    height, width = image.shape[1:]
    found = {}
    for rows in range(max(1, round(low * height)), round(high * height) + 1):
        columns = max(1, round(rows * width / height))
        small = F.interpolate(image[None], (rows, columns), mode="bilinear")[0]
        for top in range(height - rows + 1):
            for left in range(width - columns + 1):
                border = (left, width - columns - left, top, height - rows - top)
                found[rows, top, left] = F.pad(small, border)
    return found


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (2, 12, 5)])
def test_each_image_is_resized_and_padded_on_its_own(shape):
    purifier, x = Resized(low=0.6, high=0.9), images(20, shape)
    with reseeded(purifier, torch.arange(20)):
        made = purifier(x)
    for image, seen in zip(x, made, strict=True):
        gaps = [(seen - one).abs().max() for one in possible(image, 0.6, 0.9).values()]
        assert min(gaps) < 1e-5


def test_all_sizes_and_all_places_of_a_size_are_equally_likely():
    purifier, image, count = Resized(low=0.75), images(1, (1, 4, 4))[0], 6000
    known = possible(image, 0.75, 1)
    with reseeded(purifier, torch.arange(count)):
        made = purifier(image.expand(count, -1, -1, -1))
    gaps = torch.stack([(made - one).abs().amax(dim=(1, 2, 3)) for one in known.values()])
    shares = torch.bincount(gaps.argmin(dim=0), minlength=len(known)) / count
    sizes = [sum(key[0] == rows for key in known) for rows, _, _ in known]
    wanted = torch.tensor([1 / 2 / places for places in sizes])
    assert len(known) == 5
    assert (shares - wanted).abs().max() < 0.03


def test_follows_from_the_keys_and_not_from_the_neighbours():
    purifier, x = Resized(low=0.5), images(6, (1, 12, 10))
    keys = torch.arange(6)
    with reseeded(purifier, keys):
        whole = purifier(x)
    for image, key, seen in zip(x, keys, whole, strict=True):
        with reseeded(purifier, key[None]):
            torch.testing.assert_close(purifier(image[None])[0], seen)
    with reseeded(purifier, keys + 6):
        assert not torch.equal(purifier(x), whole)
    torch.manual_seed(0)
    assert not torch.equal(purifier(x), purifier(x))


def test_of_the_full_size_it_is_the_image():
    x = images(3, (3, 7, 9))
    torch.testing.assert_close(Resized(low=1.0)(x), x)


def test_is_differentiable():
    purifier, x = Resized(low=0.5), images(3, (1, 6, 5)).double().requires_grad_()
    with reseeded(purifier, torch.arange(3)):
        assert torch.autograd.gradcheck(purifier, x)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"low": 0.0}, "low=0.0: expected a number in"),
        ({"low": 0.9, "high": 0.8}, r"high=0.8: expected a number in \[0.9, 1\]"),
        ({"high": 1.1}, "high=1.1: expected a number in"),
    ],
)
def test_refuses_what_are_no_shares(fields, said):
    with pytest.raises(ValueError, match=said):
        Resized(**fields)
