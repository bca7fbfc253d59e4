"""The tracks of the engine's steps: EngineCore's thread, each worker's, each device's.

Steps come in any order and stay in compact columns until all are there. A flow leads from a
request to the steps that served it: to every step that computed its prompt, and to the first
and the last that decoded it. So arrows grow with requests and prefill chunks, not with tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from vllm_codesign import semconv as S
from vllm_codesign.analysis.perfetto_writer import Note, Rows, TraceWriter, lines
from vllm_codesign.analysis.slices import Slice, Slices
from vllm_codesign.model.step import DeviceInterval, RankStep, Step, Stretch
from vllm_codesign.model.trace import Span

_SOURCES = ("events", "wall")
_COUNTERS = (
    ("requests running", "{request}"),
    ("requests waiting", "{request}"),
    ("tokens per step", "{token}"),
)


@dataclass
class _Served:
    """The steps of one engine request, as (number, index)."""

    flow: int
    prefill: list[int] = field(default_factory=list)
    first: tuple[int, int] | None = None
    last: tuple[int, int] | None = None

    def decoded(self, number: int, index: int) -> None:
        found = (number, index)
        self.first = found if self.first is None else min(self.first, found)
        self.last = found if self.last is None else max(self.last, found)

    @property
    def steps(self) -> set[int]:
        ends = {index for end in (self.first, self.last) if end is not None for index in end[1:]}
        return ends.union(self.prefill)


class StepTracks:
    """Takes steps, then writes them. `requests`: the engine requests that flows may start from."""

    def __init__(self, writer: TraceWriter, requests: Collection[str]) -> None:
        self._writer = writer
        self._requests = requests
        self._columns = {
            name: array("q")
            for name in ("engine", "number", "at", "running", "waiting", "tokens", "requests")
        }
        self._blocked: dict[int, str] = {}
        self._rank_of_flow = array("q")
        self._start_of_flow = array("q")
        self._served: dict[str, _Served] = {}
        self._engines: dict[int, Slices] = {}
        self._hosts: dict[tuple[int, int], Slices] = {}
        self._devices: dict[tuple[int, int], Slices] = {}

    def __len__(self) -> int:
        return len(self._rank_of_flow)

    def take(self, step: Step) -> None:
        """The next step, in any order."""
        index = len(self)
        values = (step.engine, step.number, step.schedule[1], step.running, step.waiting)
        row = (*values, step.tokens, step.requests)
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        if step.blocked_by:
            self._blocked[index] = step.blocked_by
        self._take_engine(step, index)
        carrier: tuple[int, DeviceInterval] | None = None
        for rank in sorted(step.ranks, key=lambda rank: rank.rank):
            self._take_rank(step.engine, rank, index)
            if carrier is None and rank.device:
                carrier = (rank.rank, min(rank.device, key=lambda d: d.start_ns))
        self._rank_of_flow.append(carrier[0] if carrier else -1)
        self._start_of_flow.append(carrier[1].start_ns if carrier else step.schedule[0])
        for member in step.members or ():
            if member.request_id not in self._requests:
                continue
            served = self._served.get(member.request_id)
            if served is None:
                served = self._served[member.request_id] = _Served(len(self._served) + 1)
            if member.phase == "prefill":
                served.prefill.append(index)
            else:
                served.decoded(step.number, index)

    def _take_engine(self, step: Step, index: int) -> None:
        slices = self._engines.setdefault(step.engine, Slices())
        slices.add(*step.schedule, S.SCHEDULE.name, index)
        if step.allocate is not None:
            slices.add(*step.allocate, S.STEP_ALLOCATE.name, index)
        if step.update is not None:
            slices.add(*step.update, S.UPDATE.name, index)
            if step.waited_ns:
                slices.add(step.update[0] - step.waited_ns, step.update[0], "waiting", index)

    def _take_rank(self, engine: int, rank: RankStep, index: int) -> None:
        host = self._hosts.setdefault((engine, rank.rank), Slices())
        pieces: tuple[tuple[Stretch | None, str], ...] = (
            (_prepare(rank), S.WORKER_PREPARE.name),
            (rank.forward, S.WORKER_FORWARD.name),
            (rank.sample, S.WORKER_SAMPLE.name),
        )
        for stretch, name in pieces:
            if stretch is not None:
                host.add(*stretch, name, index)
        if not rank.device:
            return
        device = self._devices.setdefault((engine, rank.rank), Slices())
        for interval in rank.device:
            tag = _SOURCES.index(interval.source)
            device.add(interval.start_ns, interval.end_ns, interval.work, index, tag)
            alone = rank.forward_device
            if interval.work == "model" and alone not in (
                None,
                (interval.start_ns, interval.end_ns),
            ):
                assert alone is not None
                device.add(*alone, "forward", index, tag)

    def flows_of(self, span: Span) -> tuple[int, ...]:
        """The flow that starts, or goes on, at this span of a request."""
        if span.name not in (S.PREFILL.name, S.DECODE.name):
            return ()
        served = self._served.get(str(span.attributes.get(S.REQUEST_ID.key, "")))
        return (served.flow,) if served is not None else ()

    def write(
        self,
        engine: Callable[[int], int],
        worker: Callable[[str, int | None], int],
        tracks: Mapping[int, int],
    ) -> None:
        """`engine` and `worker` give the pid of a process, `tracks` its track.

        `worker` is told the rank where there is one engine, so that ranks are unique.
        """
        flows: dict[int, list[int]] = {}
        for served in self._served.values():
            for index in served.steps:
                flows.setdefault(index, []).append(served.flow)
        several = len(self._engines) > 1
        for pid, slices in sorted(self._engines.items()):
            engine(pid)
            self._write_engine(pid, slices, flows, tracks)
        for key in sorted(self._hosts):
            of = f" of EngineCore {key[0]}" if several else ""
            pid = worker(f"worker rank {key[1]}{of}", None if several else key[1])
            self._write_worker(key, flows, tracks[pid])

    def _write_engine(
        self, pid: int, slices: Slices, flows: Mapping[int, list[int]], tracks: Mapping[int, int]
    ) -> None:
        def row(number: int) -> int:
            # The main thread's id is the process's.
            if number == 0:
                return self._writer.thread(pid, pid, "EngineCore main")
            return self._writer.track(tracks[pid], f"EngineCore main ({number + 1})", 1 + number)

        rows = Rows(self._writer, row)
        for piece in slices:
            starts = piece.name == S.SCHEDULE.name and self._rank_of_flow[piece.key] < 0
            notes = self._schedule_notes(piece) if piece.name == S.SCHEDULE.name else {}
            rows.add(
                piece.start,
                piece.end,
                piece.name,
                {"step": self._columns["number"][piece.key], **notes},
                flows.get(piece.key, ()) if starts else (),
            )
        rows.finish()
        self._write_counters(pid, tracks[pid])

    def _schedule_notes(self, piece: Slice) -> dict[str, Note]:
        notes: dict[str, Note] = {
            name: self._columns[name][piece.key] for name in ("tokens", "requests", "waiting")
        }
        if piece.key in self._blocked:
            notes["blocked_by"] = self._blocked[piece.key]
        return notes

    def _write_counters(self, engine: int, parent: int) -> None:
        ids = np.array(self._columns["engine"], dtype=np.int64)
        at = np.array(self._columns["at"], dtype=np.int64)
        mine = np.flatnonzero(ids == engine)
        order = mine[np.argsort(at[mine], kind="stable")].tolist()
        names = ("running", "waiting", "tokens")
        for name, (title, unit) in zip(names, _COUNTERS, strict=True):
            track = self._writer.counter(parent, title, unit)
            for index in order:
                self._writer.sample(track, int(at[index]), self._columns[name][index])

    def _write_worker(
        self, key: tuple[int, int], flows: Mapping[int, list[int]], parent: int
    ) -> None:
        number = self._columns["number"]

        rows = Rows(self._writer, lines(self._writer, parent, f"host rank {key[1]}", 0))
        for piece in self._hosts[key]:
            rows.add(piece.start, piece.end, piece.name, {"step": number[piece.key]})
        rows.finish()
        rows = Rows(self._writer, lines(self._writer, parent, f"device rank {key[1]}", 50))
        for piece in self._devices.get(key, ()):
            carries = (
                self._rank_of_flow[piece.key] == key[1]
                and self._start_of_flow[piece.key] == piece.start
                and piece.name != "forward"
            )
            rows.add(
                piece.start,
                piece.end,
                piece.name,
                {"step": number[piece.key], "source": _SOURCES[piece.tag]},
                flows.get(piece.key, ()) if carries else (),
            )
        rows.finish()


def _prepare(rank: RankStep) -> Stretch | None:
    if rank.execute is None:
        return None
    return rank.execute[0], rank.forward[0] if rank.forward is not None else rank.execute[1]
