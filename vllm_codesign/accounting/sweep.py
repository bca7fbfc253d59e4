"""Sweeps over sets of intervals: cut a window wherever anything begins or ends, then ask of
each piece which sets cover it.

Pieces are the finest there are, so a set covers a piece whole or not at all, and whatever
becomes of the pieces, their lengths sum to the window exactly. O(n log n) in the number of
intervals; all times are int64 nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Pieces:
    """A window cut into pieces by intervals of several kinds."""

    __slots__ = ("cuts", "lengths", "patterns")

    def __init__(
        self, start: int, end: int, starts: Times, ends: Times, kinds: Times, count: int
    ) -> None:
        """Cut [start, end) by the intervals [starts, ends), clipped to it.

        `kinds` are numbers below `count`, which is at most 62. `patterns` then holds an
        integer for each piece: bit k is set where an interval of kind k covers it.
        """
        starts, ends = np.maximum(starts, start), np.minimum(ends, end)
        keep = starts < ends
        starts, ends, kinds = starts[keep], ends[keep], kinds[keep]
        window = np.array([start, end], dtype=np.int64)
        self.cuts: Times = np.unique(np.concatenate([window, starts, ends]))
        self.lengths: Times = np.diff(self.cuts)
        width = len(self.cuts)
        row = kinds * width
        begun = np.bincount(row + np.searchsorted(self.cuts, starts), minlength=count * width)
        ended = np.bincount(row + np.searchsorted(self.cuts, ends), minlength=count * width)
        covered = np.cumsum((begun - ended).reshape(count, width), axis=1)[:, :-1] > 0
        self.patterns: Times = _WEIGHTS[:count] @ covered

    def covered(self, kind: int) -> Mask:
        """For each piece: whether an interval of this kind covers it."""
        covered: Mask = (self.patterns >> kind) & 1 > 0
        return covered

    def total(self, mask: Mask) -> int:
        """Nanoseconds under a mask."""
        return int(self.lengths[mask].sum())


_WEIGHTS = np.left_shift(np.int64(1), np.arange(62, dtype=np.int64))


def table(rows: Sequence[tuple[int, int, int]] | Iterable[tuple[int, int, int]]) -> Times:
    """(start, end, kind) rows as three columns: an array of shape (3, n)."""
    return np.array(list(rows), dtype=np.int64).reshape(-1, 3).T


def by_pattern(patterns: Times, lengths: Times) -> Iterable[tuple[int, int]]:
    """(pattern, nanoseconds) for each pattern that occurs."""
    found, where = np.unique(patterns, return_inverse=True)
    sums = np.zeros(len(found), dtype=np.int64)
    np.add.at(sums, where, lengths)
    return zip(found.tolist(), sums.tolist(), strict=True)
