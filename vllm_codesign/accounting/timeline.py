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

from vllm_codesign.accounting.columns import Columns
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


# As plain numbers: looking one up in an enumeration takes longer than making a row of it.
_DEVICE, _PREPARE, _SCHEDULE, _UPDATE, _IPC, _OUTPUT, _FULL, _UNSEEN = map(int, Row)

CAUSES = (Row.PREPARE, Row.SCHEDULE, Row.UPDATE, Row.IPC, Row.OUTPUT)

_FULL_REASONS = (QueueReason.NO_FREE_BLOCKS, QueueReason.PREEMPTION)
"""A step that preempts admits nobody: it had no block left for those that run."""

UNKNOWN, OTHER, PREFILL, DECODE = 0, 1, 2, 3
"""What a step is to a request: its members were not recorded; without it; with it."""


_TIMES_END = 1 << 62
"""Beyond what a monotonic clock says in a century."""

# Columns of a timeline's steps; `_REACH` is the latest end of anything up to and including one,
# `_ROLE` what it is to a request that is not among its members.
_BEGIN, _REACH, _FIRST_ROW, _ROLE, _NUMBER, _DEVICE_NS, _PLANNED = range(7)
# Columns of its rows.
_START, _END, _WHAT, _STEP = range(4)


class NoSuchTimes(ValueError):
    """A step that cannot have been."""


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
        self._steps, self._rows = Columns(7), Columns(4)
        self._last_begin = self._last_reach = 0
        self._members: dict[str, tuple[list[int], list[int]]] = {}
        self._requests: dict[int, set[str]] = {}
        self._full_since = 0
        self._last_update = 0
        self.followed = 0
        """Steps that came after one whose result is known to have been taken back."""
        self.ahead = 0
        """Of these, those that were planned before it was: none where EngineCore plans each step
        after the one before, nearly all where it plans ahead."""

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: Step) -> None:
        """Take the next step; its `schedule()` was entered after those of all before it.

        Raises `NoSuchTimes` where a century would not hold it.
        """
        index = self._dropped_steps + len(self._steps)
        first_row = self._dropped_rows + len(self._rows)
        begin = step.schedule[0] - step.before_ns
        if self._full_since:
            begin = min(begin, self._full_since)
        reach = max(step.end_ns, self._last_reach)
        rows = []
        for what, (start, end) in _rows(step, self._full_since):
            if end > start:
                rows.append((start, end, what, index))
                if start < begin:
                    begin = start
                if end > reach:
                    reach = end
        if not -_TIMES_END < begin <= reach < _TIMES_END:
            raise NoSuchTimes(
                f"step {step.number} of engine {step.engine} has times that no clock has"
            )
        self._last_begin = max(begin, self._last_begin) if index > self._dropped_steps else begin
        self._last_reach = reach
        for row in rows:
            self._rows.append(row)
        if self._last_update:
            self.followed += 1
            self.ahead += step.schedule[0] < self._last_update
        self._last_update = step.update[0] if step.update is not None else 0
        self._steps.append(
            (
                self._last_begin,
                reach,
                first_row,
                UNKNOWN if step.members is None else OTHER,
                step.number,
                _union_ns(step),
                step.schedule[0],
            )
        )
        members = self._members
        for member in step.members or ():
            found = members.get(member.request_id)
            if found is None:
                found = members[member.request_id] = ([], [])
                self._requests.setdefault(member.span_id, set()).add(member.request_id)
            found[0].append(index)
            found[1].append(PREFILL if member.phase == "prefill" else DECODE)
        self._full_since = step.schedule[1] if step.blocked_by in _FULL_REASONS else 0

    def _slice(self, start: int, end: int) -> tuple[int, int]:
        """Positions of the steps that may overlap [start, end)."""
        low = int(self._steps[_REACH].searchsorted(start, side="right"))
        high = int(self._steps[_BEGIN].searchsorted(end, side="left"))
        return low, max(low, high)

    def view(self, start: int, end: int) -> View:
        """Everything that overlaps [start, end)."""
        low, high = self._slice(start, end)
        rows = slice(self._row_of(low), self._row_of(high))
        starts, ends, what, step = (self._rows[column][rows] for column in range(4))
        if 0 < self._full_since < end and high == len(self):
            # The last step found no blocks, and the next one is not here yet.
            more = (self._full_since, end, _FULL, self._dropped_steps + high - 1)
            starts, ends, what, step = (
                np.append(column, value)
                for column, value in zip((starts, ends, what, step), more, strict=True)
            )
        return View(
            starts,
            ends,
            what,
            step - (self._dropped_steps + low),
            self._steps[_ROLE][low:high],
            self._steps[_PLANNED][low:high],
            self._dropped_steps + low,
        )

    def _row_of(self, position: int) -> int:
        """Position of the first row of the step at `position`, or the end."""
        if position == len(self):
            return len(self._rows)
        return int(self._steps[_FIRST_ROW][position]) - self._dropped_rows

    def roles(self, view: View, span_ids: Iterable[int]) -> Times:
        """For each step of the view: what it is to the requests under these roots."""
        roles = view.roles.copy()
        taken = False
        for request_id in [r for s in span_ids for r in self._requests.get(s, ())]:
            steps, theirs = self._members[request_id]
            index = np.array(steps, dtype=np.int64) - view.first
            role = np.array(theirs, dtype=np.int64)
            if steps[0] < view.first or steps[-1] >= view.first + view.steps:
                inside = (index >= 0) & (index < view.steps)
                index, role = index[inside], role[inside]
            if taken:
                # Several engine requests of one root in a step: prefill counts before decode.
                gains = (roles[index] != PREFILL) | (role != DECODE)
                index, role = index[gains], role[gains]
            roles[index] = role
            taken = True
        return roles

    def served(self, request_id: str, role: int) -> Served | None:
        """The steps in which this request was a member as `PREFILL` or `DECODE`."""
        steps, roles = self._members.get(request_id, ([], []))
        mine = [s - self._dropped_steps for s, r in zip(steps, roles, strict=True) if r == role]
        index = np.array([i for i in mine if i >= 0], dtype=np.int64)
        if not len(index):
            return None
        numbers = self._steps[_NUMBER][index]
        return Served(
            int(numbers[0]), int(numbers[-1]), len(mine), int(self._steps[_DEVICE_NS][index].sum())
        )

    def forget(self, span_id: int) -> None:
        """This root is accounted for."""
        for request_id in self._requests.pop(span_id, ()):
            self._members.pop(request_id, None)

    def trim(self, before_ns: int) -> None:
        """Forget steps that were over before this instant; amortized by doing it in bulk."""
        over = int(self._steps[_REACH].searchsorted(before_ns, side="left"))
        if over < max(1024, len(self) // 2):
            return
        rows = self._row_of(over)
        self._steps.drop(over)
        self._rows.drop(rows)
        self._dropped_steps += over
        self._dropped_rows += rows
        # Roots that nobody ever asked for, because their records were lost.
        for span_id, requests in list(self._requests.items()):
            if all(self._members[r][0][-1] < self._dropped_steps for r in requests):
                self.forget(span_id)


@dataclass(frozen=True, slots=True)
class View:
    """The rows of a timeline that overlap a window.

    `step` counts from the window's first step, which is the timeline's `first`; `roles` says of
    each step what it is to a request that is not among its members, `planned` when its
    `schedule()` was entered.
    """

    starts: Times
    ends: Times
    what: Times
    step: Times
    roles: Times
    planned: Times
    first: int

    @property
    def steps(self) -> int:
        return len(self.roles)


def _rows(step: Step, full_since: int) -> Iterator[tuple[int, Stretch]]:
    """The step as rows; `full_since`: since when the queue's head has lacked blocks, or 0."""
    planned, planned_end = step.schedule
    if full_since:
        yield _FULL, (full_since, planned_end)
    yield _OUTPUT, (planned - step.before_ns, planned)
    yield _SCHEDULE, step.schedule
    if step.update is not None:
        yield _UPDATE, step.update
        yield _IPC, (step.update[0] - step.waited_ns, step.update[0])
    whole = bool(step.ranks)
    for rank in step.ranks:
        for stretch in _worked(rank):
            yield _DEVICE, stretch
        if rank.execute is not None and rank.forward is not None:
            yield _PREPARE, (rank.execute[0], rank.forward[0])
        whole = whole and _whole(rank)
    if not whole:
        yield _UNSEEN, (planned_end, _last(step))


def _worked(rank: RankStep) -> Iterator[Stretch]:
    """When the device worked. Where its time is the host's, a connector that loads or saves has its
    own: the model's calls are around it."""
    calls = sorted((c.start_ns, c.end_ns) for c in rank.connector)
    for interval in rank.device:
        at, end = interval.start_ns, interval.end_ns
        if interval.source == "wall":
            for start, until in calls:
                if at < start < end:
                    yield at, start
                    at = min(until, end)
        yield at, end


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
    for start, end in sorted(stretch for r in step.ranks for stretch in _worked(r)):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total


def timelines(steps: Iterable[Step]) -> dict[int, Timeline]:
    """Timelines by engine, from steps in any order."""
    found: dict[int, Timeline] = {}
    for step in sorted(steps, key=lambda step: (step.engine, step.number)):
        found.setdefault(step.engine, Timeline(step.engine)).add(step)
    return found
