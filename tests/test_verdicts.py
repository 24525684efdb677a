import pytest

from bezoar.results import Rate
from bezoar.verdicts import at_least

# The intervals: 90/100 is [82.6%, 94.5%], 2/4 is [15.0%, 85.0%].


@pytest.mark.parametrize(
    ("rate", "floor", "outcome"),
    [
        (Rate(90, 100), 0.80, "met"),
        (Rate(90, 100), 0.90, "undecided"),
        (Rate(90, 100), 0.94, "undecided"),
        (Rate(90, 100), 0.95, "not met"),
        (Rate(2, 4), 0.50, "undecided"),
        (Rate(4, 4), 0.90, "undecided"),
        (Rate(0, 4), 0.0, "met"),
        (Rate(0, 100), 0.5, "not met"),
    ],
    ids=str,
)
def test_a_requirement_is_met_not_met_or_undecided(rate, floor, outcome):
    assert at_least("pgd accuracy", rate, floor).outcome == outcome


def test_the_end_of_the_interval_itself_meets_the_floor():
    low, high = Rate(90, 100).interval
    assert at_least("a", Rate(90, 100), low).outcome == "met"
    assert at_least("a", Rate(90, 100), high).outcome == "undecided"


def test_says_what_was_required_and_what_was_found():
    verdict = at_least("pgd accuracy", Rate(1, 4), 0.9)
    text = "pgd accuracy at least 90.0%: 25.0% [4.6%, 69.9%] (1/4)"
    assert verdict.as_dict() == {"outcome": "not met", "text": text}
