"""KV tables from traces made by hand."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from tests.accounting.cases import span, trace
from vllm_codesign import semconv as S
from vllm_codesign.analysis.kv import NO_SESSION, Gathered
from vllm_codesign.cli.kv_table import kv_table
from vllm_codesign.model.trace import RequestTrace, SpanEvent, SpanLink


def request(session: str, *victims: tuple[str, int], again: int = 0) -> RequestTrace:
    prefill = span(
        S.PREFILL.name,
        10,
        90,
        **{
            S.PREFILL_COMPUTED.key: 60,
            S.KV_TOKENS_HIT_HBM.key: 30,
            S.KV_TOKENS_HIT_EXTERNAL.key: 10,
            S.KV_TOKENS_AGAIN.key: again,
            S.KV_REUSED_BYTES.key: 1 << 20,
            S.KV_REUSED_IDLE.key: 2_000_000_000,
        },
    )
    events = tuple(
        SpanEvent(
            S.EVENT_EVICTED,
            20,
            {
                S.EVICTED_BLOCKS.key: blocks,
                S.EVICTED_IDLE.key: 3_000_000_000,
                **({S.EVICTED_SESSION.key: victim} if victim else {}),
            },
        )
        for victim, blocks in victims
    )
    transfers = [
        span(
            S.KV_LOAD.name,
            20,
            2_000_020,
            **{
                S.KV_CONNECTOR.key: name,
                S.KV_TIER.key: "host",
                S.KV_TOKENS.key: 10,
                S.KV_BYTES.key: 1 << 20,
                S.KV_DURATION.key: 2_000_000,
                S.KV_TOKENS_RECOMPUTED.key: 4,
            },
        )
        for name in ("Multi", "Multi/Child")
    ]
    made = trace(0, 3_000_000, replace(prefill, events=events), *transfers)
    attributes = {**made.root.attributes, **({S.SESSION_ID.key: session} if session else {})}
    return RequestTrace(replace(made.root, attributes=attributes), made.children)


def gathered() -> Gathered:
    found = Gathered()
    traces = [request("a", ("b", 5), again=16), request("a", ("b", 2), ("", 1)), request("")]
    assert list(found.watch(traces)) == traces
    return found


def test_who_took_from_whom() -> None:
    found = gathered().summary()
    assert [(e.by, e.of, e.blocks, e.times) for e in found.evictions] == [
        ("a", "b", 7, 2),
        ("a", NO_SESSION, 1, 1),
    ]
    assert found.evictions[0].idle_s == 3.0
    assert (found.evicted_blocks, found.computed_again) == (8, 16)


def test_sessions() -> None:
    first, second = gathered().summary().sessions
    assert (first.session, first.requests, first.prompt_tokens) == ("a", 2, 200)
    assert (first.hit_hbm, first.hit_external, first.computed_again) == (60, 20, 16)
    assert first.held_byte_s == 2 * 2 * (1 << 20)
    assert second.session == NO_SESSION


def test_a_transfer_counts_once() -> None:
    (load,) = gathered().summary().transfers
    assert (load.what, load.connector, load.requests) == (S.KV_LOAD.name, "Multi", 3)
    assert (load.tokens, load.recomputed, load.mean_ms) == (30, 12, 2.0)


def test_a_transfer_that_outlives_its_response_is_as_long_as_it_was() -> None:
    """Its tokens stand on the first part, its length on the part that holds its end."""
    name = {S.KV_CONNECTOR.key: "Multi", S.KV_TIER.key: "host"}
    first = span(S.KV_STORE.name, 20, 1_000_020, **name, **{S.KV_TOKENS.key: 10})
    rest = span(S.KV_STORE.name, 0, 5_000_000, **name, **{S.KV_DURATION.key: 6_000_000})
    found = Gathered()
    found.take(trace(0, 5_000_000, first))
    late = trace(0, 5_000_000, rest)
    link = SpanLink(1, 2, {})
    root = replace(late.root, name=S.ENGINE_REQUEST.name, links=(link,))
    found.take(RequestTrace(root, late.children))
    (store,) = found.summary().transfers
    assert (store.requests, store.tokens, store.mean_ms) == (1, 10, 6.0)


def test_a_transfer_of_unknown_end_has_no_mean() -> None:
    found = Gathered()
    name = {S.KV_CONNECTOR.key: "Multi", S.KV_TOKENS.key: 10}
    found.take(trace(0, 5_000_000, span(S.KV_STORE.name, 20, 1_000_020, **name)))
    (store,) = found.summary().transfers
    assert (store.requests, store.mean_ms, store.queued_ms) == (1, None, None)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(kv_table(found.summary()))
    (row,) = (line for line in console.export_text().splitlines() if "Multi" in line)
    assert row.split()[-3:] == ["–", "–", "0"]


def test_what_is_printed() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(kv_table(gathered().summary()))
    text = console.export_text()
    for expected in ("KV transfers", "who evicted whom (8 cached", "(16 computed again", "Multi"):
        assert expected in text
    console.print(kv_table(Gathered().summary()))
    assert console.export_text().strip() == ""


def test_the_queue_is_apart_from_the_transfer() -> None:
    """A load of 2 ms whose request waited in the queue for the first 0.5 ms of it."""
    made = request("a")
    queue = replace(span(S.ENGINE_QUEUE.name, 0, 500_020), attributes={S.REQUEST_ID.key: "another"})
    mine = replace(queue, attributes={})
    found = Gathered()
    found.take(RequestTrace(made.root, (*made.children, mine)))
    found.take(RequestTrace(made.root, (*made.children, queue)))
    (load,) = found.summary().transfers
    assert (load.requests, load.mean_ms, load.queued_ms) == (2, 2.0, 0.25)
