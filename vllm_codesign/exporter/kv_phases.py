"""What KV connectors did for one engine request: lookups, loads and stores as phases."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import NamedTuple

from vllm_codesign import semconv as S
from vllm_codesign.exporter.facts import EngineFacts
from vllm_codesign.exporter.phase import Phase
from vllm_codesign.model.trace import AttributeValue, SpanEvent
from vllm_codesign.recorder.layout import CONNECTOR_BITS, Field, Kind, KVCall, KVDone, KVFlag
from vllm_codesign.recorder.reader import Record

Attributes = dict[str, AttributeValue]
Calls = Mapping[int, Mapping[int, tuple[int, int]]]
"""By step and `KVCall`: from the first rank's call to the last one's return."""

_LOW = 0xFFFFFFFF
_U64 = (1 << 64) - 1
_NUMBER = (1 << CONNECTOR_BITS) - 1

_TIERS = {
    "OffloadingConnector": "host",
    "SimpleCPUOffloadConnector": "host",
    "LMCacheMPConnectorUpstream": "host",
    "LMCacheMPConnector": "host",
    "ExampleConnector": "disk",
    "NixlConnector": "remote",
    "P2pNcclConnector": "remote",
    "MooncakeConnector": "remote",
    "MoRIIOConnector": "remote",
}
"""Of connectors with one tier, or one that comes first; all others are `external`."""


_STORES_ON = frozenset(("OffloadingConnector",))
"""Connectors that copy blocks on after the step, and hold them by means of their own."""


class Known(NamedTuple):
    """A request as others refer to it."""

    request_id: str
    session_id: str


def lookups(engine: EngineFacts, identity: Attributes) -> list[Phase]:
    """What each connector was asked, in order of time."""
    names = _names(engine)
    return [
        Phase(
            S.KV_CONNECTOR_LOOKUP,
            record.t0,
            record.t1,
            {
                **identity,
                **_connector(record, names),
                S.KV_TOKENS_ASKED.key: record.a >> 32,
                S.KV_TOKENS.key: record.a & _LOW,
                S.TRIES.key: record.c,
                S.TRIES_DURATION.key: record.b,
                **({S.KV_PENDING.key: True} if record.s & KVFlag.PENDING else {}),
            },
        )
        for record in sorted(engine.all(Kind.KV_LOOKUP), key=lambda r: r.t0)
    ]


def loads(engine: EngineFacts, in_engine: Attributes, calls: Calls, last: int) -> list[Phase]:
    """Each load; `last` ends one whose end nobody told.

    A request that was preempted may load again, so an end or a failure belongs to the load that
    was ordered last before it. Failures are told of requests: of a connector within another
    nobody says which one failed.
    """
    names = _names(engine)
    planned = sorted(engine.all(Kind.KV_LOAD), key=lambda r: r.t0)
    found = []
    for record in planned:
        later = (r.t0 for r in planned if r.t0 > record.t0 and _word(r) == _word(record))
        until = next(later, None)
        attributes = {**in_engine, **_connector(record, names), **_amount(record)}
        lost = sum(failure.a for failure in _within(engine, Kind.KV_FAILED, record.t0, until))
        if lost and not _caller(record):
            attributes[S.KV_TOKENS_RECOMPUTED.key] = lost
        if record.s & KVFlag.ASYNCHRONOUS:
            end = next(iter(_within(engine, Kind.KV_LOADED, record.t0, until)), None)
            attributes |= _reported(engine, record.t0, end, (KVDone.RECEIVED, KVDone.FAILED))
            if end is not None:
                stretch = record.t0, end.t0
                attributes[S.KV_DURATION.key] = end.t0 - record.t0
            else:  # not told: whatever came of it, it was over when the next one was ordered
                stretch = record.t0, max(until if until is not None else last, record.t0)
        else:
            call = calls.get(record.b, {}).get(KVCall.START_LOAD)
            if call is None:
                continue  # below level `step`, or its record was lost: when is not known
            stretch = call
            attributes[S.KV_DURATION.key] = call[1] - call[0]
        found.append(Phase(S.KV_LOAD, *stretch, attributes))
    return found


def failed_tokens(engine: EngineFacts, since: int, until: int | None) -> int:
    """Tokens that loads did not bring, told in [since, until)."""
    return sum(record.a for record in _within(engine, Kind.KV_FAILED, since, until))


def _within(engine: EngineFacts, kind: Kind, start: int, until: int | None) -> list[Record]:
    found = (r for r in engine.all(kind) if r.t0 >= start and (until is None or r.t0 < until))
    return sorted(found, key=lambda r: r.t0)


def stores(engine: EngineFacts, in_engine: Attributes, calls: Calls, last: int) -> list[Phase]:
    """What each connector was told to store, until it no longer needs the blocks."""
    names = _names(engine)
    end = engine.get(Kind.KV_SENT)
    found = []
    for record in engine.all(Kind.KV_STORE):
        attributes = {**in_engine, **_connector(record, names), **_amount(record)}
        if record.s & KVFlag.ASYNCHRONOUS:
            attributes |= _reported(engine, record.t0, end, (KVDone.SENT,))
            until, known = (end.t0, True) if end is not None else (last, False)
        elif names.get(record.s & _NUMBER, "") in _STORES_ON:
            attributes[S.KV_ASYNCHRONOUS.key] = True
            until, known = record.t1, False  # when it is over nobody is told
        else:
            call = calls.get(record.b, {}).get(KVCall.WAIT_FOR_SAVE)
            until, known = (call[1], True) if call is not None else (record.t1, False)
        name = names.get(record.s & _NUMBER, "")
        events = _single_stores(engine) if name.startswith(_TELLS_EACH) else ()
        until = max(until, record.t1, *(event.time_ns for event in events))
        if known:
            attributes[S.KV_DURATION.key] = until - record.t0
        found.append(Phase(S.KV_STORE, record.t0, until, attributes, [], events))
    return found


_TELLS_EACH = "LMCacheMPConnector"
"""The connector, and vLLM's own copy of it, whose workers see each store end."""


def _single_stores(engine: EngineFacts) -> tuple[SpanEvent, ...]:
    """Each store of the request, when the last rank knows it to be over."""
    by_rank: dict[int, list[Record]] = {}
    for record in sorted(engine.all(Kind.WORKER_KV_STORED), key=lambda r: r.t0):
        by_rank.setdefault(record.s, []).append(record)
    found = []
    for ranks in zip_longest(*by_rank.values()):
        last = max((record for record in ranks if record is not None), key=lambda r: r.t1)
        attributes: Attributes = {
            S.KV_TOKENS.key: last.a >> 32,
            S.STORED_DURATION.key: last.t1 - last.t0,
            S.KV_RESOLUTION.key: last.t1 - max(last.b, last.t0),
        }
        if (stores := last.a & _LOW) > 1:
            attributes[S.STORED_TOGETHER.key] = stores
        found.append(SpanEvent(S.EVENT_STORED, last.t1, attributes))
    return tuple(found[: S.MAX_EVENTS])


def evictions(
    engine: EngineFacts, start: int, end: int, known: Mapping[int, Known]
) -> tuple[SpanEvent, ...]:
    """Whose cached blocks its allocations took in [start, end); `known`: requests by key."""
    found = []
    for record in sorted(engine.all(Kind.KV_EVICTED), key=lambda r: r.t0):
        if not start <= record.t0 < end:
            continue
        attributes: Attributes = {S.EVICTED_BLOCKS.key: record.b}
        if record.t1:
            attributes[S.EVICTED_IDLE.key] = record.t0 - record.t1
        owner = known.get(record.a & _U64)
        if owner is not None:
            attributes[S.EVICTED_REQUEST.key] = owner.request_id
            if owner.session_id:
                attributes[S.EVICTED_SESSION.key] = owner.session_id
        found.append(SpanEvent(S.EVENT_EVICTED, record.t0, attributes))
    return tuple(found)


def cache(engine: EngineFacts) -> Attributes:
    """What the prefix cache did for it, and no longer could."""
    record = engine.get(Kind.ENG_BLOCKS)
    if record is None:
        return {}
    attributes: Attributes = {S.KV_TOKENS_AGAIN.key: record.a >> 32}
    if found := record.a & _LOW:
        attributes[S.KV_REUSED_BYTES.key] = found * record.b
        if record.t1:
            attributes[S.KV_REUSED_IDLE.key] = record.t0 - record.t1
    return attributes


def other_half(engine: EngineFacts) -> Attributes:
    """The request on another server that computes its prompt, as far as its caller named it."""
    told = {attribute.key: engine.text(field) for field, attribute in _OTHER_HALF}
    return {name: text for name, text in told.items() if text}


_OTHER_HALF = (
    (Field.REMOTE_REQUEST_ID, S.KV_REMOTE_REQUEST),
    (Field.REMOTE_ENGINE_ID, S.KV_REMOTE_ENGINE),
    (Field.TRANSFER_ID, S.KV_TRANSFER_ID),
)


def _amount(record: Record) -> Attributes:
    tokens, blocks = record.a >> 32, record.a & _LOW
    attributes: Attributes = {
        S.KV_ASYNCHRONOUS.key: bool(record.s & KVFlag.ASYNCHRONOUS),
    }
    if tokens:
        attributes[S.KV_TOKENS.key] = tokens
    if blocks:
        attributes[S.KV_TRANSFER_BLOCKS.key] = blocks
        if record.c:
            attributes[S.KV_BYTES.key] = blocks * record.c
    return attributes


def _reported(
    engine: EngineFacts, start: int, end: Record | None, kinds: tuple[KVDone, ...]
) -> Attributes:
    """How well the end is known: by the last worker that learned of it, else by the engine."""
    if end is None:
        return {}
    before = max(end.t1, start)
    told = [r for r in engine.all(Kind.WORKER_KV_DONE) if r.a in kinds and start <= r.t0 <= end.t0]
    if not told:
        return {S.KV_RESOLUTION.key: end.t0 - before}
    last = max(told, key=lambda r: r.t0)
    return {
        S.KV_RESOLUTION.key: end.t0 - max(last.t1, start),
        S.KV_REPORT.key: end.t0 - last.t0,
    }


def _names(engine: EngineFacts) -> dict[int, str]:
    """Names of connectors by their number."""
    return {
        record.s & _NUMBER: record.payload.rstrip(b"\0").decode("utf-8", "replace")
        for record in engine.all(Kind.KV_NAME)
    }


def _connector(record: Record, names: Mapping[int, str]) -> Attributes:
    name, caller = names.get(record.s & _NUMBER, "unknown"), _caller(record)
    path = f"{names.get(caller, 'unknown')}/{name}" if caller else name
    return {S.KV_CONNECTOR.key: path, S.KV_TIER.key: _TIERS.get(name, "external")}


def _caller(record: Record) -> int:
    """Number of the connector that called this one; 0 where vLLM did."""
    return record.s >> CONNECTOR_BITS & _NUMBER


def _word(record: Record) -> tuple[int, int]:
    return record.s & _NUMBER, _caller(record)
