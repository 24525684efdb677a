"""From a rate to a verdict, with three outcomes: four images do not prove 50 %."""

from dataclasses import dataclass
from typing import Literal

from bezoar.results import Rate


@dataclass(frozen=True)
class Verdict:
    """Whether a requirement is met, and the rate that says so."""

    outcome: Literal["met", "not met", "undecided"]
    requirement: str
    found: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        text = f"{self.requirement}: {self.found}"
        return {"outcome": self.outcome, "text": text}


def at_least(what: str, rate: Rate, floor: float) -> Verdict:
    """Require ``rate >= floor``; undecided while the interval still straddles the floor."""
    low, high = rate.interval
    outcome: Literal["met", "not met", "undecided"]
    outcome = "met" if low >= floor else "not met" if high < floor else "undecided"
    return Verdict(outcome, f"{what} at least {floor:.1%}", str(rate))
