"""Splits a request's time in the waiting queue by reason.

What holds the head of the queue holds everyone behind it, so EngineCore records only the
changes at the head, and changes of single requests that the scheduler passes over. A
request's reason at an instant is its own if it is passed over, the head's while it is the
head, and `behind_head` otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

from vllm_codesign.recorder.layout import REASON_NUMBERS
from vllm_codesign.recorder.reader import Record

_KEEP = 65_536
"""Changes kept per engine, at least: a minute of history at 1,000 changes a second."""


class HeadTimeline:
    """Who was at the head of one engine's queue, and what held it."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._states: list[tuple[int, int]] = []

    def add(self, record: Record) -> None:
        self._times.append(record.t0)
        self._states.append((record.key, record.s))
        if len(self._times) > 2 * _KEEP:
            del self._times[:_KEEP], self._states[:_KEEP]

    def between(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(from, to, key of the head, reason number) pieces that cover [start, end)."""
        index = bisect_right(self._times, start)
        key, reason = self._states[index - 1] if index else (0, 0)
        at = start
        while index < len(self._times) and self._times[index] < end:
            if self._times[index] > at:
                yield at, self._times[index], key, reason
                at = self._times[index]
            key, reason = self._states[index]
            index += 1
        if at < end:
            yield at, end, key, reason


def split(
    start: int, end: int, key: int, timeline: HeadTimeline, deferred: Iterable[Record]
) -> dict[str, int]:
    """Nanoseconds under each reason; they sum to `end - start` exactly."""
    times: dict[str, int] = {}
    if end <= start:
        return times
    own = [(start, 0), *((r.t0, r.s) for r in sorted(deferred, key=lambda r: r.t0)), (end, 0)]
    for (own_from, own_reason), (own_to, _) in pairwise(own):
        low, high = max(own_from, start), min(own_to, end)
        if high <= low:
            continue
        if own_reason:
            name = REASON_NUMBERS[own_reason - 1]
            times[name] = times.get(name, 0) + high - low
            continue
        for piece_from, piece_to, head, reason in timeline.between(low, high):
            if not reason:
                # The queue was empty at the last step: it came in while that step ran.
                name = "other"
            elif head == key:
                name = REASON_NUMBERS[reason - 1]
            else:
                name = "behind_head"
            times[name] = times.get(name, 0) + piece_to - piece_from
    return times
