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

    __slots__ = ("_covered", "_present", "cuts", "lengths")

    def __init__(
        self, start: int, end: int, starts: Times, ends: Times, kinds: Times, count: int
    ) -> None:
        """Cut [start, end) by the intervals [starts, ends), clipped to it.

        `kinds` are numbers below `count`, which is at most 62.
        """
        starts, ends = np.maximum(starts, start), np.minimum(ends, end)
        keep = starts < ends
        if not keep.all():
            starts, ends, kinds = starts[keep], ends[keep], kinds[keep]
        window = np.array([start, end], dtype=np.int64)
        self.cuts: Times = _distinct(np.concatenate([window, starts, ends]))
        self.lengths: Times = self.cuts[1:] - self.cuts[:-1]
        # A row of the matrix for each kind that there is, which is less than half of them.
        self._present = np.flatnonzero(np.bincount(kinds, minlength=count))
        height, width = len(self._present), len(self.cuts)
        row_of = np.empty(count, dtype=np.int64)
        row_of[self._present] = np.arange(0, height * width, width)
        row = row_of[kinds]
        change = np.bincount(row + self.cuts.searchsorted(starts), minlength=height * width)
        change -= np.bincount(row + self.cuts.searchsorted(ends), minlength=height * width)
        # Row after row in one go: each ends at zero, since all that begins in it also ends.
        covered = change.cumsum().astype(np.bool_)
        self._covered: Mask = covered.reshape(height, width)[:, :-1]

    @property
    def patterns(self) -> Times:
        """An integer for each piece: bit k is set where an interval of kind k covers it."""
        # A product of integers and truth values: numpy's `@` takes longer over it.
        patterns: Times = np.einsum("k,kp->p", _WEIGHTS[self._present], self._covered)
        return patterns

    def by_pattern(self) -> Iterable[tuple[int, int]]:
        """(pattern, nanoseconds) for each pattern that occurs."""
        patterns = self.patterns
        order = patterns.argsort()
        patterns, lengths = patterns[order], self.lengths[order]
        firsts = np.flatnonzero(_first_of_its_kind(patterns))
        sums = np.add.reduceat(lengths, firsts)
        return zip(patterns[firsts].tolist(), sums.tolist(), strict=True)

    def covered(self, kind: int) -> Mask:
        """For each piece: whether an interval of this kind covers it."""
        (row,) = np.nonzero(self._present == kind)
        if not len(row):
            return np.zeros(len(self.lengths), dtype=np.bool_)
        covered: Mask = self._covered[row[0]]
        return covered

    def total(self, mask: Mask) -> int:
        """Nanoseconds under a mask."""
        return int(self.lengths[mask].sum())


_WEIGHTS = np.left_shift(np.int64(1), np.arange(62, dtype=np.int64))


def _distinct(values: Times) -> Times:
    """The values in order, each once; `np.unique` does more, and takes three times as long."""
    values.sort()
    return values[_first_of_its_kind(values)]


def _first_of_its_kind(ordered: Times) -> Mask:
    """For each of some ordered values: whether it differs from the one before."""
    first = np.empty(len(ordered), dtype=np.bool_)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def table(rows: Sequence[tuple[int, int, int]] | Iterable[tuple[int, int, int]]) -> Times:
    """(start, end, kind) rows as three columns: an array of shape (3, n)."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return np.array(columns, dtype=np.int64)
