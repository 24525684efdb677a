import re

import pytest
import torch

from bezoar import checks

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5)])
def test_images_in_the_box_pass(dtype, shape):
    checks.images(torch.zeros(shape, dtype=dtype))
    checks.images(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 4, 5),
        torch.zeros(1, 1, 1, 4, 5),
        torch.zeros(1, 1, 4, 5, dtype=torch.uint8),
        torch.zeros(1, 1, 4, 5, dtype=torch.float16),
        torch.zeros(1, 1, 4, 5, dtype=torch.int64),
    ],
)
def test_what_has_not_the_form_of_images_is_refused(x):
    found = re.escape(f"x of shape {tuple(x.shape)} and dtype {x.dtype}")
    with pytest.raises(ValueError, match=rf"{found}: expected \(N, C, H, W\) float32"):
        checks.images(x, "x")


@pytest.mark.parametrize("shape", [(0, 1, 4, 5), (1, 0, 4, 5), (1, 1, 4, 0)])
def test_no_pixels_are_no_images(shape):
    with pytest.raises(ValueError, match=r"images of shape .*: expected at least one image"):
        checks.images(torch.zeros(shape))


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1e-6, 1.001, 2.0, 255.0, 300.0])
def test_one_value_outside_the_box_is_enough(value):
    x = torch.full((2, 1, 4, 5), 0.5)
    x[1, 0, 3, 4] = value
    with pytest.raises(ValueError, match=r"^images with values in \[.*\]: expected \[0, 1\]"):
        checks.images(x)


@pytest.mark.parametrize(("value", "hint"), [(255.0, True), (300.0, False), (-1.0, False)])
def test_the_hint_to_divide_is_given_where_it_helps(value, hint):
    x = torch.full((1, 1, 1, 2), value)
    with pytest.raises(ValueError, match="expected") as error:
        checks.images(x)
    assert ("divide by 255" in str(error.value)) is hint


def test_labels_from_0_to_the_last_class_pass():
    checks.labels(torch.tensor([0, 2, 1]), 3)
    checks.labels(torch.zeros(0, dtype=torch.int64), 3)


@pytest.mark.parametrize(("y", "worst"), [([0, 3], 3), ([-1, 0], -1), ([-2, 7], -2)])
def test_a_class_that_there_is_not_is_named(y, worst):
    with pytest.raises(ValueError, match=rf"y hold class {worst}: expected 0 to 2"):
        checks.labels(torch.tensor(y), 3, "y")


@pytest.mark.parametrize(
    "y", [torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2), torch.zeros(2, dtype=torch.int32)]
)
def test_labels_of_another_form_are_refused(y):
    with pytest.raises(ValueError, match=r"labels of shape .*: expected \(N,\) int64"):
        checks.labels(y, 3)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_a_number_in_the_range_passes_with_both_ends(value):
    checks.in_range("p", value, 0, 1)


@pytest.mark.parametrize("value", [-1e-9, 1.0000001, NAN, INF, -INF])
def test_a_number_outside_the_range_is_refused(value):
    with pytest.raises(ValueError, match=rf"p={value!r}: expected a number in \[0, 1\]"):
        checks.in_range("p", value, 0, 1)


def test_a_range_without_end_says_so_and_takes_no_infinity():
    checks.in_range("p", 1e300, 0)
    with pytest.raises(ValueError, match=r"p=inf: expected a number at least 0"):
        checks.in_range("p", INF, 0)


@pytest.mark.parametrize("value", [2, 3, 10**9])
def test_an_integer_of_the_least_or_more_passes(value):
    checks.at_least("n", value, 2)


@pytest.mark.parametrize("value", [1, -3, 2.0, 2.5, True, None, "3", NAN])
def test_what_is_no_integer_or_too_small_is_refused(value):
    with pytest.raises(ValueError, match=rf"n={value!r}: expected an integer >= 2"):
        checks.at_least("n", value, 2)


def test_an_integer_is_one_of_some():
    checks.one_of("seed", 2, [10, 2])
    with pytest.raises(ValueError, match=r"seed=3: expected one of 2, 10$"):
        checks.one_of("seed", 3, [10, 2])


def test_a_known_name_passes():
    checks.known("attack", "pgd", {"pgd": 1, "fgsm": 2})


def test_an_unknown_name_is_answered_with_the_known_and_the_nearest():
    message = "attack 'pdg': expected one of fgsm, pgd; did you mean 'pgd'?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.known("attack", "pdg", ["pgd", "fgsm"])


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(ValueError, match=r"^attack 'zzzz': expected one of fgsm, pgd$"):
        checks.known("attack", "zzzz", ["pgd", "fgsm"])


@pytest.mark.parametrize(
    ("text", "value"), [("0.1", 0.1), ("8/255", 8 / 255), (" 1 / 4 ", 0.25), ("2e-2", 0.02), (3, 3)]
)
def test_a_number_may_be_a_fraction(text, value):
    assert checks.number("eps", text) == value


@pytest.mark.parametrize("text", ["", "/", "8/", "/255", "1/0", "1/2/3", "a", "8\\255", "0,1"])
def test_what_is_no_number_is_refused_with_what_was_found(text):
    with pytest.raises(ValueError, match=rf"eps={re.escape(repr(text))}: expected a number such"):
        checks.number("eps", text)


def test_a_count_that_no_tensor_can_hold_is_refused():
    checks.at_least("steps", 2**31 - 1, 1)
    with pytest.raises(ValueError, match=r"steps=2147483648: expected an integer below 2\*\*31"):
        checks.at_least("steps", 2**31, 1)
