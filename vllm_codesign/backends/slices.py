"""A search that hands out so many results at most, asked in slices of time until none is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """What one search found; nothing of it is kept before `take()`."""

    traces: int
    take: Callable[[], None]


def search(
    since_ns: int,
    until_ns: int,
    find: Callable[[int, int], Slice],
    most: int,
    least_ns: int,
    enough: Callable[[], bool],
) -> bool:
    """Take what `find(since, until)` finds, the newest slices first, until it is `enough()`.

    A slice with `most` traces may be any of more, so it is asked again in halves, down to
    `least_ns`. False where something is or may be missing: a smallest slice was still full, or
    it was enough before the oldest slice.
    """
    todo = [(since_ns, until_ns)]
    whole = True
    while todo:
        if enough():
            return False
        start, end = todo.pop()
        found = find(start, end)
        if found.traces >= most and end - start > least_ns:
            middle = (start + end) // 2
            todo += [(start, middle), (middle, end)]
            continue
        whole &= found.traces < most
        found.take()
    return whole
