"""Medians, spread, ratios, and the comparison of two runs: no I/O."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Rates = Mapping[str, Mapping[str, Sequence[float]]]
    """Contestant and work: the rate of each round, in requests per second."""

TOLERANCE = 0.2
"""A ratio may be this part lower than the recorded one; rounds of a second differ by about half of that."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of all do not exceed; 0 if there is no value."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def spread(values: Sequence[float]) -> float:
    """Return how far the values are apart: the largest less the smallest, as a part of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


@dataclass(frozen=True)
class Ratio:
    """One contestant's rate in one work, divided by another rate."""

    over: tuple[str, str]
    """Contestant and work."""
    under: tuple[str, str]
    goal: float
    """The least that it is to be."""

    @property
    def name(self) -> str:
        """What is divided by what."""
        return f"{self.over[0]}: {self.over[1]} / {self.under[0]}: {self.under[1]}"

    def of(self, rates: Rates) -> float | None:
        """Return the median of the rounds' ratios; None if one of the two was not measured.

        Both were measured in the same round, one after the other, so what slows a whole round down has less
        effect than on the ratio of the medians.
        """
        try:
            over, under = (rates[contestant][work] for contestant, work in (self.over, self.under))
        except KeyError:
            return None
        rounds = [a / b for a, b in zip(over, under, strict=False) if b]
        return statistics.median(rounds) if rounds else None


def fallen(recorded: Mapping[str, float], measured: Mapping[str, float]) -> list[str]:
    """Return a line for each ratio that is more than ``TOLERANCE`` under the recorded one.

    A ratio that only one of the runs has is not compared.
    """
    return [
        f"{name}: {measured[name]:.2f}, recorded {value:.2f}, at least {value * (1 - TOLERANCE):.2f} expected"
        for name, value in recorded.items()
        if name in measured and measured[name] < value * (1 - TOLERANCE)
    ]
