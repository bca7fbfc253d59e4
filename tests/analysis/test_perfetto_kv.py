"""KV transfers and evictions in a Perfetto trace."""

from __future__ import annotations

from dataclasses import replace

from tests.accounting.cases import ENGINE, UNIX, in_engine, span, trace
from tests.analysis.perfetto_reading import drawn, lane
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace, Span, SpanEvent


def evicting(start: int, end: int, *taken: tuple[int, str, str, int]) -> Span:
    """A prefill whose allocations took others' blocks: (when, request, session, blocks)."""
    return replace(
        in_engine(S.PREFILL.name, start, end),
        events=tuple(
            SpanEvent(
                S.EVENT_EVICTED,
                UNIX + at,
                {
                    S.EVICTED_BLOCKS.key: blocks,
                    S.EVICTED_REQUEST.key: request,
                    S.EVICTED_SESSION.key: session,
                },
            )
            for at, request, session, blocks in taken
        ),
    )


def of_session(session: str, found: RequestTrace, root: int) -> RequestTrace:
    attributes = {**found.root.attributes, S.SESSION_ID.key: session}
    top = replace(found.root, attributes=attributes, span_id=root, trace_id=root)
    return RequestTrace(top, found.children)


def test_evictions_have_a_track_that_says_who_took_whose_blocks() -> None:
    read = drawn(
        [
            of_session("b", trace(200, 300, evicting(210, 260, (215, "r9", "a", 3))), 2),
            of_session("a", trace(0, 100, evicting(10, 60, (15, "r8", "b", 5))), 1),
        ]
    )
    track = ("EngineCore", "KV evictions")
    assert [(name, at) for path, name, at in read.instants if path == track] == [
        (S.EVENT_EVICTED, 15),
        (S.EVENT_EVICTED, 215),
    ]
    assert read.told[track, 15] == {
        S.REQUEST_ID.key: "r1",
        S.SESSION_ID.key: "a",
        S.EVICTED_BLOCKS.key: 5,
        S.EVICTED_REQUEST.key: "r8",
        S.EVICTED_SESSION.key: "b",
    }
    assert read.told[track, 215][S.SESSION_ID.key] == "b"
    assert (lane(1), S.EVENT_EVICTED, 15) in read.instants, "and on the request itself"
    assert read.pid("EngineCore") == ENGINE


def test_no_eviction_no_track() -> None:
    read = drawn([trace(0, 100, in_engine(S.PREFILL.name, 10, 60))])
    assert not [d.name for d in read.descriptors.values() if d.name == "KV evictions"]


def test_transfers_are_slices_of_their_request() -> None:
    moved = {S.KV_CONNECTOR.key: "X", S.KV_TIER.key: "host", S.KV_TOKENS.key: 256}
    read = drawn(
        [
            trace(
                0,
                100,
                span(S.KV_LOAD.name, 5, 20, **moved, **{S.KV_ASYNCHRONOUS.key: True}),
                in_engine(S.PREFILL.name, 20, 60),
                span(S.KV_STORE.name, 30, 80, **moved),
            )
        ]
    )
    (load,) = [s for s in read.on(*lane(1)) if s.name == S.KV_LOAD.name]
    assert load.time == (5, 20)
    assert load.notes == {**moved, S.KV_ASYNCHRONOUS.key: True}
    (store,) = read.on(*lane(1, 2))
    assert (store.name, store.time, store.notes) == (S.KV_STORE.name, (30, 80), moved)
