"""Arithmetic on sets of intervals, one by one and without the accounting's code: to hold it to."""

from __future__ import annotations

from collections.abc import Iterable

Stretch = tuple[int, int]


def union(intervals: Iterable[Stretch]) -> list[Stretch]:
    """The same instants as intervals that neither overlap nor touch, in order."""
    joined: list[Stretch] = []
    for start, end in sorted(i for i in intervals if i[1] > i[0]):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def both(a: list[Stretch], b: list[Stretch]) -> list[Stretch]:
    """Instants that are in both of two unions."""
    found = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if end > start:
            found.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(a: list[Stretch]) -> int:
    return sum(end - start for start, end in a)


def without(a: list[Stretch], b: list[Stretch]) -> int:
    """How long is in one union and not in the other."""
    return length(a) - length(both(a, b))


def minus(a: list[Stretch], b: list[Stretch]) -> list[Stretch]:
    """Instants that are in the first of two unions and not in the second."""
    found = []
    for start, end in a:
        left = start
        for taken_from, taken_to in b:
            if taken_from >= end:
                break
            if taken_to > left:
                if taken_from > left:
                    found.append((left, taken_from))
                left = taken_to
        if left < end:
            found.append((left, end))
    return found
