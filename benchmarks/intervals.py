"""Medians with bootstrap intervals, and ratios of a slot to the slots beside it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vllm_codesign.analysis import bootstrap
from vllm_codesign.analysis.bootstrap import DRAWS


@dataclass(frozen=True, slots=True)
class Interval:
    """A median, its 95 % percentile bootstrap interval, and how many values it is of."""

    median: float
    low: float
    high: float
    n: int

    @property
    def width(self) -> float:
        return self.high - self.low

    def scaled(self, factor: float) -> Interval:
        return Interval(self.median * factor, self.low * factor, self.high * factor, self.n)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def median_interval(values: Sequence[float], draws: int = DRAWS, seed: int = 0) -> Interval:
    """Median of `values` with the 2.5th and 97.5th percentile of resampled medians."""
    median, low, high = bootstrap.of_one(values, draws=draws, seed=seed)
    return Interval(median, low, high, len(values))


def neighbour_ratios(
    labels: Sequence[str], values: Sequence[float], reference: str
) -> dict[str, list[float]]:
    """Each slot that is no reference, over the mean of the reference slots on both sides of it.

    Slots are in the order of time, so a slow drift of the machine cancels. A slot without a
    reference on both sides is an error: the order was not the planned one.
    """
    ratios: dict[str, list[float]] = {}
    for index, label in enumerate(labels):
        if label == reference:
            continue
        sides = (index - 1, index + 1)
        if any(not 0 <= i < len(labels) or labels[i] != reference for i in sides):
            raise ValueError(f"slot {index} ({label}) is not between two of {reference}")
        base = statistics.fmean(values[i] for i in sides)
        ratios.setdefault(label, []).append(values[index] / base)
    return ratios
