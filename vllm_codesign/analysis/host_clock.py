"""Unix time as the host's monotonic clock, by the readings of both that a capture holds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

ClockReading = tuple[int, int]
"""Monotonic, Unix."""


class HostClock:
    """`readings` must not be empty; between two of them the clocks drift evenly."""

    def __init__(self, readings: Iterable[ClockReading]) -> None:
        self.readings: tuple[ClockReading, ...] = tuple(sorted(set(readings)))
        if not self.readings:
            raise ValueError("no reading of the clocks")
        self._by_unix = sorted(self.readings, key=lambda reading: reading[1])
        self._unix = [unix for _, unix in self._by_unix]

    def to_monotonic(self, unix_ns: int) -> int:
        after = bisect_right(self._unix, unix_ns)
        if after == 0 or after == len(self._by_unix):
            monotonic, unix = self._by_unix[0 if after == 0 else -1]
            return unix_ns - unix + monotonic
        (m0, u0), (m1, u1) = self._by_unix[after - 1], self._by_unix[after]
        return m0 + (unix_ns - u0) * (m1 - m0) // (u1 - u0)
