"""The device's time while the server runs: `accounting.fleet` over windows that are closed.

A window ends some seconds behind the records that were read, and before the first step that
is not whole yet. By then all that a capture will say about it is known: of requests that
ended from their traces, of the others from what is known of them so far (`open_work`). The
windows follow one another without a gap, so their sum is the wall time, to the nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from vllm_codesign.accounting import Timeline, Work, fleet
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import IdleCause
from vllm_codesign.semconv import metrics as M

BEHIND_NS = 5_000_000_000
"""A request is handed out at most 2 s after its end, a step with device times 1 s after its own."""


class LiveFleet:
    """Each engine's time counts from the entry of its first `schedule()` on."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._work = Work()
        self._since: dict[int, int] = {}
        self._reached = 0
        self._ended: set[int] = set()

    @property
    def needs_since(self) -> int:
        """Steps that were over before this are not asked for any more."""
        return min(self._since.values(), default=1 << 62)

    def begin(self, step: Step) -> None:
        """A step was handed out; the first of an engine starts its clock."""
        if step.engine not in self._since and step.engine not in self._ended:
            self._since[step.engine] = max(step.schedule[0], self._reached)
            self._board.add(M.DEVICE_TIME, 0, "busy", "work")
            for cause in IdleCause:
                self._board.add(M.DEVICE_TIME, 0, "idle", cause.value)

    def take(self, trace: RequestTrace) -> None:
        """A request, or what outlived its response."""
        self._work.take(trace)

    def pause(self) -> None:
        """No steps are recorded: nobody knows what the device does."""
        self._since.clear()
        self._work = Work()

    def close(
        self,
        until_ns: int,
        timelines: Mapping[int, Timeline],
        open_work: Callable[[int], Work],
        gone: Collection[int],
    ) -> None:
        """Account for the time up to `until_ns`.

        `open_work` tells of requests that have not ended and began before an instant; `gone`:
        processes that ended, which have this window for their last one.
        """
        starts = {pid: at for pid, at in self._since.items() if at < until_ns and pid in timelines}
        if not starts:
            if not self._since:  # no engine's time is counted: nobody will ask for what is over
                self._work = self._work.since(until_ns)
            return
        work = open_work(until_ns)
        work.add(self._work)
        for pid, since in starts.items():
            (engine,) = fleet(work, {pid: timelines[pid]}, (since, until_ns)).engines
            self._board.add(M.DEVICE_TIME, engine.busy_ns, "busy", "work")
            for cause, ns in engine.idle_ns.items():
                self._board.add(M.DEVICE_TIME, ns, "idle", cause)
            self._since[pid] = until_ns
        self._reached = max(self._reached, until_ns)
        for pid in [pid for pid in starts if pid in gone]:
            del self._since[pid]
            self._ended.add(pid)
        self._work = self._work.since(self.needs_since)
