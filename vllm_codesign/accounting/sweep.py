"""Sweeps over sets of intervals: cut a window wherever anything begins or ends, then ask of
each piece which sets cover it.

Pieces are the finest there are, so a set covers a piece whole or not at all, and whatever
the labels are, their lengths sum to the window exactly. O(n log n) in the number of
intervals; all times are int64 nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Intervals:
    """A set of intervals [start, end), clipped to a window. Empty ones are dropped."""

    __slots__ = ("ends", "starts")

    def __init__(self, starts: Times, ends: Times) -> None:
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Intervals:
        """From (start, end) pairs."""
        table = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
        return cls(table[:, 0], table[:, 1])

    def within(self, start: int, end: int) -> Intervals:
        """The parts inside [start, end)."""
        starts, ends = np.maximum(self.starts, start), np.minimum(self.ends, end)
        keep = starts < ends
        return Intervals(starts[keep], ends[keep])

    def where(self, keep: Mask) -> Intervals:
        return Intervals(self.starts[keep], self.ends[keep])

    def __len__(self) -> int:
        return len(self.starts)


class Sweep:
    """A window cut into pieces at every end of the sets given."""

    def __init__(self, start: int, end: int, sets: Sequence[Intervals]) -> None:
        """`sets` lie within [start, end], `end` >= `start`."""
        edges = [np.array([start, end], dtype=np.int64)]
        for intervals in sets:
            edges += [intervals.starts, intervals.ends]
        self.cuts: Times = np.unique(np.concatenate(edges))
        self.lengths: Times = np.diff(self.cuts)

    def covered(self, intervals: Intervals) -> Mask:
        """For each piece: whether any of the intervals covers it."""
        if not len(intervals):
            return np.zeros(len(self.lengths), dtype=np.bool_)
        change = np.zeros(len(self.cuts), dtype=np.int64)
        np.add.at(change, np.searchsorted(self.cuts, intervals.starts), 1)
        np.add.at(change, np.searchsorted(self.cuts, intervals.ends), -1)
        covered: Mask = np.cumsum(change)[:-1] > 0
        return covered

    def total(self, mask: Mask) -> int:
        """Nanoseconds under a mask."""
        return int(self.lengths[mask].sum())
