"""What the records of one request say, gathered by key."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from vllm_codesign.recorder.layout import Field, Kind, KVFlag
from vllm_codesign.recorder.reader import Record


@dataclass(slots=True)
class Facts:
    """Records of one key: one per kind, lists where there may be several, and its strings."""

    key: int
    pid: int
    one: dict[int, Record] = field(default_factory=dict)
    many: dict[int, list[Record]] = field(default_factory=dict)
    lossy: bool = False
    """Records of this server were lost meanwhile."""
    _pieces: dict[int, dict[int, bytes]] = field(default_factory=dict)
    _piece_counts: dict[int, int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        kind = record.kind
        if kind == Kind.TEXT:
            self._pieces.setdefault(record.s, {})[record.c >> 16] = record.payload
            self._piece_counts[record.s] = record.c & 0xFFFF
        elif kind in _SEVERAL:
            self.many.setdefault(kind, []).append(record)
        else:
            self.one[kind] = record

    def get(self, kind: Kind) -> Record | None:
        return self.one.get(kind)

    def all(self, kind: Kind) -> list[Record]:
        return self.many.get(kind, [])

    def text(self, which: Field) -> str:
        """A string; empty where it was not sent, or not whole."""
        pieces = self._pieces.get(which, {})
        count = self._piece_counts.get(which, 0)
        if not count or len(pieces) != count:
            return ""
        raw = b"".join(pieces[index] for index in range(count))
        return raw.rstrip(b"\0").decode("utf-8", "replace")


_SEVERAL = frozenset(
    (
        Kind.JOB,
        Kind.JOB_BATCH,
        Kind.RESUMED,
        Kind.TAKEN,
        Kind.ENG_SCHEDULED,
        Kind.ENG_PREEMPTED,
        Kind.ENG_DEFERRED,
        Kind.ITL,
        Kind.KV_LOOKUP,
        Kind.KV_LOAD,
        Kind.KV_LOADED,
        Kind.KV_FAILED,
        Kind.KV_STORE,
        Kind.KV_NAME,
        Kind.KV_EVICTED,
        Kind.WORKER_KV_DONE,
        Kind.WORKER_KV_STORED,
    )
)


@dataclass(slots=True)
class RootFacts(Facts):
    """One HTTP request and the engine requests that it led to."""

    engines: list[EngineFacts] = field(default_factory=list)


@dataclass(slots=True)
class EngineFacts(Facts):
    """One engine request. Its records come from two processes."""

    root_key: int = 0
    engine_pid: int = 0
    """The EngineCore that scheduled it; 0 until it is known."""
    _own_ids: tuple[int, int] | None = None

    def own_ids(self) -> tuple[int, int]:
        """Trace and span id of a root of its own, for a request without an HTTP request."""
        if self._own_ids is None:
            self._own_ids = (secrets.randbits(128) or 1, secrets.randbits(64) or 1)
        return self._own_ids

    def intervals_us(self) -> tuple[int, ...]:
        """Inter-token times in order; empty where a piece is missing."""
        out: list[int] = []
        for index, record in enumerate(sorted(self.all(Kind.ITL), key=lambda r: r.c)):
            if record.c >> 8 != index:
                return ()
            count = record.c & 0xFF
            out.extend(
                int.from_bytes(record.payload[4 * i : 4 * i + 4], "little") for i in range(count)
            )
        return tuple(out)

    @property
    def finished(self) -> bool:
        """Both sides are done with it, and so is a connector that kept its blocks."""
        if Kind.KV_SENT not in self.one and any(
            record.s & KVFlag.ASYNCHRONOUS for record in self.all(Kind.KV_STORE)
        ):
            return False
        return Kind.ENG_FINISHED in self.one and (
            Kind.REQ_OUT in self.one or Kind.REQ not in self.one
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """The root of an HTTP request whose response is over; `ended` is monotonic.

    `offset` is Unix minus monotonic time as its spans were told: the anchor may have moved
    since, and what follows a span must not begin before its end.
    """

    trace_id: int
    span_id: int
    ended: int
    offset: int | None = None
