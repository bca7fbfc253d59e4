"""What one engine's device and host did, step after step, in a form made for sweeps.

Each step becomes rows (start, end, what, step): the device's work, and *evidence* of what the
host did, which is what an idle device may have waited for. EngineCore's rows do not overlap
one another, and each comes whole out of one record; so where a record is missing nothing
takes its place, and the time under it stays unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vllm_codesign.accounting.sweep import Times
from vllm_codesign.model.step import RankStep, Step, Stretch
from vllm_codesign.semconv import QueueReason


class Row(IntEnum):
    """What a row says; the causes of idleness in the order in which they apply.

    Where worker and EngineCore are both at work, it is the worker that the device waits for:
    its batch is there, and only has to be prepared. IPC is EngineCore waiting for a result
    that no worker is working on.
    """

    DEVICE = 0
    PREPARE = 1
    SCHEDULE = 2
    UPDATE = 3
    IPC = 4
    OUTPUT = 5
    FULL = 6
    """The head of the waiting queue lacks blocks: not the host's doing."""
    UNSEEN = 7
    """In flight, with records of a worker missing: nobody knows what the device did."""


CAUSES = (Row.PREPARE, Row.SCHEDULE, Row.UPDATE, Row.IPC, Row.OUTPUT)

UNKNOWN, OTHER, PREFILL, DECODE = 0, 1, 2, 3
"""What a step is to a request: its members were not recorded; without it; with it."""


class _Column:
    """A growing array of int64, dropped from the front."""

    __slots__ = ("_data", "_size")

    def __init__(self) -> None:
        self._data: Times = np.empty(1024, dtype=np.int64)
        self._size = 0

    def append(self, value: int) -> None:
        if self._size == len(self._data):
            self._data = np.concatenate([self._data, np.empty_like(self._data)])
        self._data[self._size] = value
        self._size += 1

    def drop(self, count: int) -> None:
        """Forget the first `count`."""
        self._data[: self._size - count] = self._data[count : self._size].copy()
        self._size -= count

    @property
    def values(self) -> Times:
        return self._data[: self._size]

    def __len__(self) -> int:
        return self._size


@dataclass(frozen=True, slots=True)
class Served:
    """The steps that one engine request was in, while computing its prompt or while decoding."""

    first: int
    last: int
    count: int
    device_ns: int
    """Time in which any rank's device worked on them."""


class Timeline:
    """One engine's steps, in the order of their `schedule()` calls.

    Steps are known by an index that counts all that were ever added; `trim` forgets the
    oldest, so memory is bounded by the oldest request still open.
    """

    def __init__(self, engine: int) -> None:
        self.engine = engine
        self._dropped_steps = self._dropped_rows = 0
        self._begins = _Column()
        self._reach = _Column()  # latest end of anything up to and including this step
        self._first_row = _Column()
        self._known = _Column()
        self._starts, self._ends = _Column(), _Column()
        self._whats, self._steps = _Column(), _Column()
        self._numbers, self._device_ns = _Column(), _Column()
        self._members: dict[str, tuple[list[int], list[int]]] = {}
        self._requests: dict[int, set[str]] = {}
        self._last_schedule_end = 0
        self._full_since = 0

    def __len__(self) -> int:
        return len(self._begins)

    def add(self, step: Step) -> None:
        """Take the next step; its `schedule()` was entered after those of all before it."""
        index = self._dropped_steps + len(self._begins)
        first_row = self._dropped_rows + len(self._starts)
        begin = step.schedule[0] - step.before_ns
        if self._full_since:
            begin = min(begin, self._full_since)
        reach = int(self._reach.values[-1]) if len(self._reach) else 0
        for what, (start, end) in self._rows(step):
            if end > start:
                self._starts.append(start)
                self._ends.append(end)
                self._whats.append(what)
                self._steps.append(index)
                begin, reach = min(begin, start), max(reach, end)
        self._begins.append(max(begin, int(self._begins.values[-1])) if len(self) else begin)
        self._reach.append(max(reach, step.end_ns))
        self._first_row.append(first_row)
        self._known.append(step.members is not None)
        self._numbers.append(step.number)
        self._device_ns.append(_union_ns(step))
        for member in step.members or ():
            found = self._members.get(member.request_id)
            if found is None:
                found = self._members[member.request_id] = ([], [])
                self._requests.setdefault(member.span_id, set()).add(member.request_id)
            steps, roles = found
            steps.append(index)
            roles.append(PREFILL if member.phase == "prefill" else DECODE)
        self._full_since = step.schedule[1] if step.blocked_by == QueueReason.NO_FREE_BLOCKS else 0

    def _rows(self, step: Step) -> Iterator[tuple[Row, Stretch]]:
        planned, planned_end = step.schedule
        if self._full_since:
            yield Row.FULL, (self._full_since, planned_end)
        yield Row.OUTPUT, (planned - step.before_ns, planned)
        yield Row.SCHEDULE, step.schedule
        if step.update is not None:
            yield Row.UPDATE, step.update
            yield Row.IPC, (step.update[0] - step.waited_ns, step.update[0])
        for rank in step.ranks:
            for interval in rank.device:
                yield Row.DEVICE, (interval.start_ns, interval.end_ns)
            if rank.execute is not None and rank.forward is not None:
                yield Row.PREPARE, (rank.execute[0], rank.forward[0])
        if not step.ranks or not all(map(_whole, step.ranks)):
            yield Row.UNSEEN, (planned_end, _last(step))

    def _slice(self, start: int, end: int) -> tuple[int, int]:
        """Positions of the steps that may overlap [start, end)."""
        low = int(np.searchsorted(self._reach.values, start, side="right"))
        high = int(np.searchsorted(self._begins.values, end, side="left"))
        return low, max(low, high)

    def view(self, start: int, end: int) -> View:
        """Everything that overlaps [start, end)."""
        low, high = self._slice(start, end)
        firsts = self._first_row.values
        from_row = int(firsts[low]) - self._dropped_rows if low < len(firsts) else len(self._starts)
        to_row = int(firsts[high]) - self._dropped_rows if high < len(firsts) else len(self._starts)
        rows = slice(from_row, to_row)
        return View(
            self._starts.values[rows],
            self._ends.values[rows],
            self._whats.values[rows],
            self._steps.values[rows] - (self._dropped_steps + low),
            high - low,
        )

    def roles(self, start: int, end: int, span_ids: Iterable[int]) -> NDArray[np.int8]:
        """For each step of `view(start, end)`: what it is to the requests under these roots."""
        low, high = self._slice(start, end)
        roles = np.where(self._known.values[low:high] > 0, OTHER, UNKNOWN).astype(np.int8)
        base = self._dropped_steps + low
        for request_id in [r for s in span_ids for r in self._requests.get(s, ())]:
            steps, theirs = self._members[request_id]
            index = np.array(steps, dtype=np.int64) - base
            inside = (index >= 0) & (index < high - low)
            index, role = index[inside], np.array(theirs, dtype=np.int8)[inside]
            # Several engine requests of one root in a step: prefill counts before decode.
            stays = (roles[index] == PREFILL) & (role == DECODE)
            roles[index[~stays]] = role[~stays]
        return roles

    def served(self, request_id: str, role: int) -> Served | None:
        """The steps in which this request was a member as `PREFILL` or `DECODE`."""
        steps, roles = self._members.get(request_id, ([], []))
        mine = [s - self._dropped_steps for s, r in zip(steps, roles, strict=True) if r == role]
        index = np.array([i for i in mine if i >= 0], dtype=np.int64)
        if not len(index):
            return None
        numbers = self._numbers.values[index]
        return Served(
            int(numbers[0]), int(numbers[-1]), len(mine), int(self._device_ns.values[index].sum())
        )

    def forget(self, span_id: int) -> None:
        """This root is accounted for."""
        for request_id in self._requests.pop(span_id, ()):
            self._members.pop(request_id, None)

    def trim(self, before_ns: int) -> None:
        """Forget steps that were over before this instant; amortized by doing it in bulk."""
        over = int(np.searchsorted(self._reach.values, before_ns, side="left"))
        if over < max(1024, len(self) // 2):
            return
        rows = (
            int(self._first_row.values[over]) - self._dropped_rows
            if over < len(self._first_row)
            else len(self._starts)
        )
        for column in (
            self._begins,
            self._reach,
            self._first_row,
            self._known,
            self._numbers,
            self._device_ns,
        ):
            column.drop(over)
        for column in (self._starts, self._ends, self._whats, self._steps):
            column.drop(rows)
        self._dropped_steps += over
        self._dropped_rows += rows
        # Roots that nobody ever asked for, because their records were lost.
        for span_id, requests in list(self._requests.items()):
            if all(self._members[r][0][-1] < self._dropped_steps for r in requests):
                self.forget(span_id)


@dataclass(frozen=True, slots=True)
class View:
    """The rows of a timeline that overlap a window; `step` counts from the window's first."""

    starts: Times
    ends: Times
    what: Times
    step: Times
    steps: int


def _whole(rank: RankStep) -> bool:
    """Whether all of this worker's records are there, its device's too."""
    told = {interval.work for interval in rank.device}
    return rank.execute is not None and rank.forward is not None and {"model", "sample"} <= told


def _last(step: Step) -> int:
    """Until when the step was in flight."""
    if step.update is not None:
        return step.update[0]
    return max((d.end_ns for rank in step.ranks for d in rank.device), default=step.schedule[1])


def _union_ns(step: Step) -> int:
    """Time in which any rank's device worked on the step."""
    total = reached = 0
    for start, end in sorted((d.start_ns, d.end_ns) for r in step.ranks for d in r.device):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total


def timelines(steps: Iterable[Step]) -> dict[int, Timeline]:
    """Timelines by engine, from steps in any order."""
    found: dict[int, Timeline] = {}
    for step in sorted(steps, key=lambda step: (step.engine, step.number)):
        found.setdefault(step.engine, Timeline(step.engine)).add(step)
    return found
