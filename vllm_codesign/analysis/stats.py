"""Mean and percentiles, by one stated method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

METHOD = "percentiles by nearest rank"


@dataclass(frozen=True, slots=True)
class Stat:
    """Of `n` values: mean, median and 95th percentile, in the unit of the values."""

    n: int
    mean: float
    p50: float
    p95: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank).

    Every figure is one that some request had, also with few of them. DuckDB's
    `quantile_disc` is the same. `ordered` is sorted and not empty.
    """
    # Rounded first: 0.95 * 20 is 19.000000000000004 in binary and means 19.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


def summarize(values: Sequence[float]) -> Stat | None:
    """`None` where there is nothing to summarize: no value is not zero."""
    if not values:
        return None
    ordered = sorted(values)
    return Stat(
        n=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 0.50),
        p95=percentile(ordered, 0.95),
    )
