"""The throughput view: what each engine's device did, and why it stood idle.

Not a sum over requests: a step serves many, and what one waits for another may use. The
device's time is cut by the step timeline, and idle time counts only while there was work in
the house: a request that any process of the server had taken in and not yet answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vllm_codesign import semconv as S
from vllm_codesign.accounting.sweep import Pieces, table
from vllm_codesign.accounting.timeline import CAUSES, Row, Timeline
from vllm_codesign.model.step import Stretch
from vllm_codesign.model.trace import AttributeValue, RequestTrace
from vllm_codesign.semconv import IdleCause

_CAUSE_OF = {
    Row.PREPARE: IdleCause.PREPARE,
    Row.SCHEDULE: IdleCause.SCHEDULE,
    Row.UPDATE: IdleCause.UPDATE,
    Row.IPC: IdleCause.IPC,
    Row.OUTPUT: IdleCause.OUTPUT,
}


@dataclass(frozen=True, slots=True)
class EngineTime:
    """One engine over a window; `busy_ns` and `idle_ns` sum to its length.

    Any rank at work makes the device busy: the ranks of one engine work on the same step.
    `hidden_ns` is EngineCore's and the workers' work meanwhile.
    """

    engine: int
    busy_ns: int
    idle_ns: Mapping[str, int]
    hidden_ns: int
    steps: int
    strip: tuple[tuple[int, int, str], ...] = ()
    """(from, to, `busy` or a cause) over the window, adjoining pieces of one kind joined."""

    @property
    def window_ns(self) -> int:
        return self.busy_ns + sum(self.idle_ns.values())

    @property
    def exposed_ns(self) -> int:
        """Idle for the host's sake while there was work."""
        outside = (IdleCause.NO_WORK, IdleCause.KV_LOAD)
        return sum(ns for cause, ns in self.idle_ns.items() if cause not in outside)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All engines of a server; times are sums over engines."""

    engines: tuple[EngineTime, ...]
    start_ns: int
    end_ns: int

    @property
    def busy_ns(self) -> int:
        return sum(engine.busy_ns for engine in self.engines)

    @property
    def exposed_ns(self) -> int:
        return sum(engine.exposed_ns for engine in self.engines)

    @property
    def hidden_ns(self) -> int:
        return sum(engine.hidden_ns for engine in self.engines)

    @property
    def idle_ns(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for engine in self.engines:
            for cause, ns in engine.idle_ns.items():
                total[cause] = total.get(cause, 0) + ns
        return total

    @property
    def speed_up(self) -> float:
        """Amdahl's bound: throughput with no exposed host time over what it was; 1 or more.

        For a server with work all the time; nan where the device never worked.
        """
        return (self.busy_ns + self.exposed_ns) / self.busy_ns if self.busy_ns else float("nan")


_RUNS = (S.PREFILL.name, S.DECODE.name)
_OF_A_STEP = (Row.PREPARE, Row.SCHEDULE, Row.UPDATE, Row.IPC, Row.UNSEEN)
"""Evidence that a step is in the making. Not so `OUTPUT`: empty steps are not recorded, so while
nothing runs it reaches from one step to the next."""
_HANDED = (S.ENGINE_DISPATCH.name, S.ENGINE_QUEUE.name, S.PREFILL.name)


@dataclass(slots=True)
class Work:
    """When there was work in the house, gathered trace by trace."""

    house: list[Stretch] = field(default_factory=list)
    frontend: list[Stretch] = field(default_factory=list)
    """From a request's first byte until it is handed to the engine client."""
    engines: dict[int, list[Stretch]] = field(default_factory=dict)
    dispatch: list[Stretch] = field(default_factory=list)
    running: dict[int, list[Stretch]] = field(default_factory=dict)
    """By engine: a request is admitted, and is not itself waiting for a load."""
    blocking: dict[int, list[Stretch]] = field(default_factory=dict)
    """By engine: a worker loads something before it computes its step."""
    background: dict[int, list[Stretch]] = field(default_factory=dict)
    """By engine: a connector loads something, and steps without its request may go on."""

    @property
    def window(self) -> Stretch:
        """From the first request's beginning to the last one's end."""
        return (
            min((start for start, _ in self.house), default=0),
            max((end for _, end in self.house), default=0),
        )

    def take(self, trace: RequestTrace) -> None:
        """One request; work that outlived its response counts as well."""
        start = trace.root.attributes.get(S.MONOTONIC.key)
        if not isinstance(start, int):
            return
        shift = start - trace.root.start_ns
        end = start + trace.root.duration_ns
        self.house.append((start, end))
        handed = [s.start_ns + shift for s in trace.children if s.name in _HANDED]
        # What comes after the engine's last output needs no device.
        self.frontend.append((start, min(handed, default=end)))
        loads: dict[AttributeValue | None, list[Stretch]] = {}
        runs: list[tuple[int, AttributeValue | None, Stretch]] = []
        for span in trace.children:
            stretch = (span.start_ns + shift, span.end_ns + shift)
            pid = span.attributes.get(S.ENGINE_PID.key)
            request = span.attributes.get(S.REQUEST_ID.key)
            if span.name == S.ENGINE_DISPATCH.name:
                self.dispatch.append(stretch)
            elif not isinstance(pid, int):
                continue
            elif span.name == S.KV_LOAD.name:
                if span.attributes.get(S.KV_ASYNCHRONOUS.key) is False:
                    self.blocking.setdefault(pid, []).append(stretch)
                else:
                    self.background.setdefault(pid, []).append(stretch)
                    loads.setdefault(request, []).append(stretch)
            elif span.name in _RUNS:
                self.engines.setdefault(pid, []).append(stretch)
                runs.append((pid, request, stretch))
            elif span.name == S.ENGINE_QUEUE.name:
                self.engines.setdefault(pid, []).append(stretch)
        for pid, request, stretch in runs:
            self.running.setdefault(pid, []).extend(_without(stretch, loads.get(request, ())))

    def add(self, other: Work) -> None:
        """All of another's."""
        self.house += other.house
        self.frontend += other.frontend
        self.dispatch += other.dispatch
        for mine, theirs in zip(self._by_engine, other._by_engine, strict=True):
            for engine, stretches in theirs.items():
                mine.setdefault(engine, []).extend(stretches)

    def since(self, start_ns: int) -> Work:
        """What of it ends after this instant."""
        left = Work(
            _since(start_ns, self.house),
            _since(start_ns, self.frontend),
            dispatch=_since(start_ns, self.dispatch),
        )
        for kept, all_ in zip(left._by_engine, self._by_engine, strict=True):
            kept.update((engine, _since(start_ns, found)) for engine, found in all_.items())
        return left

    @property
    def _by_engine(self) -> tuple[dict[int, list[Stretch]], ...]:
        return self.engines, self.running, self.blocking, self.background


def _without(stretch: Stretch, others: Iterable[Stretch]) -> Iterator[Stretch]:
    """What of it lies outside all of the others."""
    at, end = stretch
    for start, until in sorted(others):
        if at < min(start, end):
            yield at, min(start, end)
        at = max(at, until)
    if at < end:
        yield at, end


def _since(start_ns: int, stretches: list[Stretch]) -> list[Stretch]:
    return [stretch for stretch in stretches if stretch[1] > start_ns]


def fleet(
    work: Work,
    engines: Mapping[int, Timeline],
    window: Stretch | None = None,
    strip: bool = False,
) -> Fleet:
    """Device time of all engines over `window` (None: that of the work).

    `work` is all that overlaps the window. `strip` fills `EngineTime.strip`.
    """
    start, end = work.window if window is None else window
    return Fleet(
        tuple(_engine(timeline, work, start, end, strip) for timeline in engines.values()),
        start,
        end,
    )


_FRONTEND, _HERE, _DISPATCH, _RUNNING, _BLOCKING, _BACKGROUND = (
    len(Row) + number for number in range(6)
)


def _engine(timeline: Timeline, work: Work, start: int, end: int, strip: bool) -> EngineTime:
    view = timeline.view(start, end)
    rows = np.concatenate(
        [
            np.stack([view.starts, view.ends, view.what]),
            table((a, b, _FRONTEND) for a, b in work.frontend),
            table((a, b, _DISPATCH) for a, b in work.dispatch),
            *(
                table((a, b, kind) for a, b in stretches.get(timeline.engine, ()))
                for kind, stretches in (
                    (_HERE, work.engines),
                    (_RUNNING, work.running),
                    (_BLOCKING, work.blocking),
                    (_BACKGROUND, work.background),
                )
            ),
        ],
        axis=1,
    )
    pieces = Pieces(start, end, rows[0], rows[1], rows[2], len(Row) + 6)
    busy, here = pieces.covered(Row.DEVICE), pieces.covered(_HERE)
    labels = list(IdleCause)
    rank = {cause: number for number, cause in enumerate(labels)}
    label = np.full(len(pieces.lengths), rank[IdleCause.NO_WORK], dtype=np.int64)
    label[pieces.covered(_DISPATCH)] = rank[IdleCause.IPC]
    label[pieces.covered(_FRONTEND)] = rank[IdleCause.FRONTEND]
    label[here] = rank[IdleCause.OTHER]
    host = np.zeros(len(label), dtype=np.bool_)
    for what in reversed(CAUSES):
        covered = pieces.covered(what)
        if what is not Row.IPC:  # that is waiting
            host |= covered
        label[here & covered] = rank[_CAUSE_OF[what]]
    label[here & pieces.covered(Row.UNSEEN)] = rank[IdleCause.OTHER]
    # In the background it is the cause only while the engine has nothing else to run.
    others = pieces.covered(_RUNNING)
    for what in _OF_A_STEP:
        others |= pieces.covered(what)
    label[here & pieces.covered(_BACKGROUND) & ~others] = rank[IdleCause.KV_LOAD]
    # As in the latency view, before any gap: a worker that loads is not preparing.
    label[here & pieces.covered(_BLOCKING)] = rank[IdleCause.KV_LOAD]
    lengths = np.zeros(len(labels), dtype=np.int64)
    np.add.at(lengths, label[~busy], pieces.lengths[~busy])
    return EngineTime(
        timeline.engine,
        pieces.total(busy),
        {cause.value: int(lengths[rank[cause]]) for cause in labels if lengths[rank[cause]]},
        pieces.total(busy & host),
        view.steps,
        _strip(pieces, busy, label, [cause.value for cause in labels]) if strip else (),
    )


def _strip(
    pieces: Pieces,
    busy: np.ndarray,  # type: ignore[type-arg]
    label: np.ndarray,  # type: ignore[type-arg]
    names: list[str],
) -> tuple[tuple[int, int, str], ...]:
    kind = np.where(busy, -1, label)
    if not len(kind):
        return ()
    changes = np.flatnonzero(np.diff(kind)) + 1
    firsts = np.concatenate([[0], changes])
    lasts = np.concatenate([changes, [len(kind)]])
    return tuple(
        (int(pieces.cuts[i]), int(pieces.cuts[j]), "busy" if kind[i] < 0 else names[kind[i]])
        for i, j in zip(firsts, lasts, strict=True)
    )
