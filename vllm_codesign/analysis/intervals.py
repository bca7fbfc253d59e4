"""Sets of half-open intervals in integer nanoseconds."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[int, int]


def covered_ns(intervals: Iterable[Interval], within: Interval) -> int:
    """Length of the union of `intervals`, as far as it lies in `within`; O(n log n)."""
    low, high = within
    total = 0
    reached = low
    for start, end in sorted(intervals):
        fresh = min(end, high) - max(start, reached)
        if fresh > 0:
            total += fresh
            reached = min(end, high)
    return total
