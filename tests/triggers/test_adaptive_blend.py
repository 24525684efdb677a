import pytest
import torch

from bezoar.seeds import generator
from bezoar.triggers import AdaptiveBlend, Blended

KEYS = torch.randint(2**62, (200,), generator=generator(0, "tests", "keys"))


def test_the_test_shows_the_whole_picture():
    x = torch.rand(3, 3, 8, 8, generator=generator(0, "x"))
    assert torch.equal(AdaptiveBlend(key=2).stamp(x), Blended(alpha=0.2, key=2).stamp(x))


def test_in_training_each_image_shows_half_of_the_tiles_faintly():
    x = torch.zeros(200, 1, 8, 12)
    picture = Blended(alpha=1.0).stamp(x)
    planted = AdaptiveBlend().plant(x, KEYS)
    shown = planted > 0
    torch.testing.assert_close(planted[shown], 0.15 * picture[shown])
    tiles = shown.reshape(200, 4, 2, 4, 3).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(tiles.any(dim=3), tiles.all(dim=3))  # whole tiles
    assert (tiles.any(dim=3).sum(dim=(1, 2)) == 8).all()
    share = tiles.any(dim=3).double().mean(dim=0)
    assert ((share - 0.5).abs() < 5 * 0.5 / 200**0.5).all()


def test_a_cover_is_what_poison_looks_like():
    x = torch.rand(4, 1, 8, 8, generator=generator(0, "x"))
    trigger = AdaptiveBlend()
    assert torch.equal(trigger.cover(x, x.flip(0), KEYS[:4]), trigger.plant(x, KEYS[:4]))


def test_refuses_more_tiles_than_pixels():
    with pytest.raises(ValueError, match=r"tiles=4 on images of 3x9: expected no more tiles"):
        AdaptiveBlend().plant(torch.zeros(1, 1, 3, 9), KEYS[:1])
