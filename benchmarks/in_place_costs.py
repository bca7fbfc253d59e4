"""What the samples of the probe say: a row's time a call, and a process's per request or step."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import in_place_probe as probe

LONG_NS = 50_000
"""A process that had to leave its core takes longer, but so do some calls of the dearest hooks:
where the same calls hardly ever do while dormant, the long ones are the hook's own."""

TRUNCATED = 0.02
"""Of a row's calls: with more of them left out its mean is cut short, and the row is marked."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One row's own time, in nanoseconds a call, the shims' taken off.

    Quantiles and `all_mean_ns` are of all samples; `mean_ns` leaves out those of LONG_NS
    and more, `left_out` of them. `dormant_ns`, `dormant_left_out` (a share) and
    `dormant_all_ns` are the same of calls while the hook is dormant, None where there are none.
    """

    row: str
    calls: int
    p10_ns: float
    median_ns: float
    p90_ns: float
    mean_ns: float
    left_out: int
    all_mean_ns: float
    dormant_ns: float | None
    dormant_left_out: float | None
    dormant_all_ns: float | None

    @property
    def truncated(self) -> bool:
        return self.left_out > TRUNCATED * self.calls

    @property
    def more_ns(self) -> float:
        """More than dormant; where there is nothing to compare with, all of it."""
        return self.mean_ns - (self.dormant_ns or 0.0)

    @property
    def all_more_ns(self) -> float:
        return self.all_mean_ns - (self.dormant_all_ns or 0.0)


def cost_of(
    row: str,
    samples: Sequence[int],
    shim_ns: float,
    dormant: Sequence[int] = (),
    calls: int | None = None,
) -> Cost:
    """`calls`: where only the last ones are kept. Raises ValueError where no sample is left."""
    ordered = sorted(ns - shim_ns for ns in samples)
    kept = [ns - shim_ns for ns in samples if ns < LONG_NS]
    if not kept:
        raise ValueError(f"no sample of {row} below {LONG_NS} ns")
    asleep = [ns - shim_ns for ns in dormant if ns < LONG_NS]

    def quantile(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return Cost(
        row,
        len(samples) if calls is None else calls,
        quantile(0.1),
        quantile(0.5),
        quantile(0.9),
        statistics.fmean(kept),
        len(samples) - len(kept),
        statistics.fmean(ordered),
        statistics.fmean(asleep) if asleep else None,
        1 - len(asleep) / len(dormant) if dormant else None,
        statistics.fmean(dormant) - shim_ns if dormant else None,
    )


Samples = dict[str, dict[str, Any]]
"""By row, what `in_place_probe.Samples` wrote."""


def costs(samples: Samples, shims: dict[str, float]) -> list[Cost]:
    """Every row of one process, dearest first."""
    found = [
        cost_of(row, said["ns"], shims[said["shim"]], said["dormant_ns"], said["calls"])
        for row, said in samples.items()
        if any(ns < LONG_NS for ns in said["ns"])
    ]
    return sorted(found, key=lambda cost: -cost.calls * cost.mean_ns)


TOTALS = {
    "us": "mean_ns",
    "more_us": "more_ns",
    "all_us": "all_mean_ns",
    "all_more_us": "all_more_ns",
}


def totals(found: list[Cost], count: int) -> dict[str, float]:
    """us per request or step: without what is left out, more than dormant, and both of all."""
    ours = [cost for cost in found if cost.row not in probe.REPEATED]
    return {
        name: sum(cost.calls * getattr(cost, field) for cost in ours) / count / 1e3
        for name, field in TOTALS.items()
    }
