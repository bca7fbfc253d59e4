"""A search that hands out so many results at most, asked in slices of time until none is cut."""

from __future__ import annotations

from collections.abc import Callable


def search(
    since_ns: int,
    until_ns: int,
    find: Callable[[int, int], int],
    most: int,
    least_ns: int,
    enough: Callable[[], bool],
) -> bool:
    """Call `find(since, until)`, which takes what it finds and returns how much that was.

    A slice that returns `most` may hold more, so it is asked again in halves, the newer one
    first, down to `least_ns`. Stops when `enough()`. False where something is or may be missing:
    a smallest slice was still full, or it was enough before the oldest slice.
    """
    todo = [(since_ns, until_ns)]
    whole = True
    while todo:
        if enough():
            return False
        start, end = todo.pop()
        if find(start, end) < most:
            continue
        if end - start <= least_ns:
            whole = False
            continue
        middle = (start + end) // 2
        todo += [(start, middle), (middle, end)]
    return whole
