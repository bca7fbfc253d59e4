"""Decides when a request is complete: records in, complete requests out.

A root is complete when its response has ended and every engine request that it led to has
been freed, or `GRACE_NS` later, whichever comes first: a response may end before the engine
notices. What the engine still does after that goes into a trace of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator

from vllm_codesign.exporter.facts import EngineFacts, Origin, RootFacts
from vllm_codesign.exporter.queueing import HeadTimeline
from vllm_codesign.exporter.steps import STEP_KINDS, StepAssembler
from vllm_codesign.recorder.layout import ENGINE_FIELDS, Kind, KVFlag
from vllm_codesign.recorder.reader import Record

SETTLE_NS = 100_000_000
"""After the end of a response: the output handler may still be writing its totals down."""

GRACE_NS = 2_000_000_000
"""How long a root waits for its engine requests after its end."""

STEP_GRACE_NS = 10_000_000_000
"""How long a root waits for the steps that began before its end."""

FORGET_NS = 60_000_000_000
"""An engine request without a known origin is dropped this long after its last record."""

GIVE_UP_NS = 3_600_000_000_000
"""A request that lost records is handed out as it is after an hour without any: it ended."""

REMEMBER = 10_000
"""Ended roots that late engine requests can still be linked to."""

_AFTER_ALL = frozenset(
    (
        Kind.WORKER_KV_DONE,
        Kind.WORKER_KV_STORED,
        Kind.KV_LOADED,
        Kind.KV_SENT,
        Kind.KV_ORDERED,
    )
)
"""May come when all else of a request is told, or says little alone: no reason to wait."""

_NOT_OF_A_REQUEST = frozenset((Kind.VOID, Kind.LOOP_LAG, Kind.GIL))

_ROOT_KINDS = frozenset(
    (
        Kind.ROOT_BEGIN,
        Kind.ROOT_PARENT,
        Kind.ROOT_RECEIVED,
        Kind.ROOT_PARAMS,
        Kind.ROOT_STREAM,
        Kind.ROOT_END,
        Kind.JOB,
        Kind.JOB_BATCH,
        Kind.RESUMED,
        Kind.TAKEN,
    )
)


class Assembler:
    """Requests in the making. `take` records, then ask `complete` and `leftovers`."""

    def __init__(self) -> None:
        self.roots: dict[int, RootFacts] = {}
        self.engines: dict[int, EngineFacts] = {}
        self.heads: dict[int, HeadTimeline] = {}
        self.steps = StepAssembler(self.engines, self.roots)
        self.ended: OrderedDict[int, Origin] = OrderedDict()
        """Roots that are out, for links."""
        self.orphans = 0
        """Records whose request is not known: it came in before us, or its start was lost."""
        self._ending: dict[int, None] = {}
        self._last_seen: dict[int, int] = {}
        self._told: list[int] = []
        """Engine requests handed out since the last `complete`: their spans may not be made yet."""

    @property
    def open(self) -> int:
        """Requests in the making."""
        return len(self.roots) + sum(
            1 for e in self.engines.values() if Kind.REQ in e.one and not e.root_key
        )

    def take(self, pid: int, record: Record) -> None:
        """One record of process `pid`, in the order in which that process wrote it."""
        kind, key = record.kind, record.key
        if kind in _NOT_OF_A_REQUEST:
            return
        if kind in STEP_KINDS:
            self.steps.take(pid, record)
        elif kind == Kind.ENG_HEAD:
            self.heads.setdefault(pid, HeadTimeline()).add(record)
        elif kind in _ROOT_KINDS or (kind == Kind.TEXT and record.s not in ENGINE_FIELDS):
            self._take_root(pid, record)
        else:
            facts = self.engines.get(key)
            if facts is None:
                if kind in _AFTER_ALL:
                    return
                facts = self.engines[key] = EngineFacts(key, pid)
            if kind == Kind.KV_ORDERED:
                self.steps.calls.stores(key, record.b, record.s)
                return
            if kind == Kind.KV_LOAD and record.b and not record.s & KVFlag.ASYNCHRONOUS:
                self.steps.calls.loads(key, record.b)
            facts.add(record)
            self._last_seen[key] = max(self._last_seen.get(key, 0), record.t0)
            if kind == Kind.REQ:
                facts.pid = pid
                # The root key is unsigned and travels in a signed field; pids keep it small.
                facts.root_key = record.a
                root = self.roots.get(record.a)
                if root is not None:
                    root.engines.append(facts)
            elif kind == Kind.ENG_QUEUED:
                facts.engine_pid = pid
                self.steps.take(pid, record)

    def _take_root(self, pid: int, record: Record) -> None:
        facts = self.roots.get(record.key)
        if facts is None:
            if record.kind != Kind.ROOT_BEGIN:
                self.orphans += 1
                return
            facts = self.roots[record.key] = RootFacts(record.key, pid)
        facts.add(record)
        if record.kind == Kind.ROOT_END:
            self._ending[record.key] = None

    def complete(
        self, read_until: int, final: bool = False, gone: Collection[int] = ()
    ) -> Iterator[RootFacts]:
        """Roots that are complete, given that all records up to `read_until` were taken.

        `final`: nothing more will come; every root is handed out, ended or not. So are those
        of the processes `gone`: vLLM's engine may outlive a killed API server for ever. Take
        the complete steps first: a root waits for those that began before its end.
        """
        for key in self._told:
            self.steps.calls.release(key)
        self._told.clear()
        steps_until = self.steps.open_since()
        if final:
            keys = list(self.roots)
        else:
            stranded = [k for k, root in self.roots.items() if root.pid in gone] if gone else []
            keys = list(dict.fromkeys((*self._ending, *self._given_up(read_until), *stranded)))
        for key in keys:
            root = self.roots[key]
            if not final and key in self._ending and root.pid not in gone:
                end = root.one[Kind.ROOT_END].t0
                waited = read_until - end
                if waited < SETTLE_NS:
                    continue
                if waited < GRACE_NS and not all(e.finished for e in root.engines):
                    continue
                if waited < STEP_GRACE_NS and root.engines and steps_until < end:
                    continue
            self._ending.pop(key, None)
            del self.roots[key]
            for engine in root.engines:
                if engine.finished or final:
                    self._drop(engine.key)
            yield root

    def oldest_begin(self) -> int:
        """When the oldest request in the making came in; far in the future if there is none."""
        return min((r.one[Kind.ROOT_BEGIN].t0 for r in self.roots.values()), default=1 << 62)

    def _given_up(self, read_until: int) -> list[int]:
        return [
            key
            for key, root in self.roots.items()
            if root.lossy
            and key not in self._ending
            and read_until - self._last_seen_of(root) > GIVE_UP_NS
        ]

    def _last_seen_of(self, root: RootFacts) -> int:
        seen = [self._last_seen.get(engine.key, 0) for engine in root.engines]
        return max([root.one[Kind.ROOT_BEGIN].t0, *seen])

    def remember(self, root_key: int, origin: Origin) -> None:
        """A root's trace is out: engine requests that come later can link to it."""
        self.ended[root_key] = origin
        while len(self.ended) > REMEMBER:
            self.ended.popitem(last=False)

    def leftovers(self, read_until: int, final: bool = False) -> Iterator[EngineFacts]:
        """Engine requests that are done and belong to no open root.

        Those without an HTTP request (offline), those that began after their response, and
        those that went on after it; the last were partly told with their root.
        """
        for key, facts in list(self.engines.items()):
            if facts.root_key in self.roots and not final:
                continue
            known = Kind.REQ in facts.one
            quiet = read_until - self._last_seen.get(key, 0)
            # One side's last word is enough in the end: the other's may have been lost.
            half = Kind.ENG_FINISHED in facts.one or Kind.REQ_OUT in facts.one
            done = (facts.finished and quiet > SETTLE_NS) or (half and quiet > FORGET_NS)
            # Both last words lost: it must not stay for ever.
            done = done or (facts.lossy and quiet > GIVE_UP_NS)
            if known and (final or done):
                self._drop(key)
                yield facts
            elif not known and (final or quiet > FORGET_NS):
                self._drop(key)
                self.orphans += sum(1 for _ in facts.one) + sum(map(len, facts.many.values()))

    def _drop(self, key: int) -> None:
        self.engines.pop(key, None)
        self._last_seen.pop(key, None)
        self._told.append(key)
