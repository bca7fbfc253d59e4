"""Spans of connectors and block life from hand-written records."""

from __future__ import annotations

from typing import Any

from tests.exporter.records import (
    ENGINE,
    api_records,
    assembled,
    builder,
    engine_records,
    finished,
    rec,
    scheduled,
    text,
    traces_of,
    us,
)
from vllm_codesign import semconv as S
from vllm_codesign.exporter.facts import EngineFacts
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.recorder.layout import Field, Kind, KVCall, KVDone, KVFlag
from vllm_codesign.recorder.reader import Record

STEP = 200 << 40 | 1


def named(connector: int, name: str, key: int = 11) -> Record:
    return rec(Kind.KV_NAME, key, s=connector)._replace(payload=name.encode().ljust(32, b"\0"))


def trace(*records: Record, calls: Any = ()) -> RequestTrace:
    assembler = assembled(api_records(), [*engine_records()[:-1], *records, finished()])
    for record in calls:
        assembler.steps.take(300, record)
    made = builder(assembler)
    made.calls = assembler.steps.calls.of
    (root,) = assembler.complete(us(60_000_000))
    (found, *_) = made.request(root, us(60_000_000))
    return found


def one(found: RequestTrace, name: str) -> Span:
    (span,) = found.named(name)
    return span


def test_an_asynchronous_load_ends_when_it_is_known() -> None:
    found = trace(
        named(1, "LMCacheMPConnector"),
        rec(Kind.KV_LOOKUP, 11, 1_700, 1_710, a=64 << 32 | 48, b=30_000, c=3, s=1),
        rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, c=100, s=1 | KVFlag.ASYNCHRONOUS),
        rec(Kind.WORKER_KV_DONE, 11, 2_700, 2_300, a=KVDone.RECEIVED),
        rec(Kind.KV_LOADED, 11, 2_900, 2_400),
    )
    lookup, load = one(found, S.KV_CONNECTOR_LOOKUP.name), one(found, S.KV_LOAD.name)
    queue = one(found, S.ENGINE_QUEUE.name)
    assert lookup.parent_id == load.parent_id == queue.span_id
    assert lookup.attributes[S.KV_TOKENS.key] == 48
    assert lookup.attributes[S.TRIES.key] == 3
    assert load.start_ns - queue.start_ns == 300_000
    assert load.duration_ns == 1_100_000
    of = load.attributes
    assert of[S.KV_CONNECTOR.key] == "LMCacheMPConnector"
    assert of[S.KV_TIER.key] == "host"
    assert (of[S.KV_TOKENS.key], of[S.KV_TRANSFER_BLOCKS.key], of[S.KV_BYTES.key]) == (48, 3, 300)
    # The worker asked at 2300 and had no answer, at 2700 it had; the engine learned at 2900.
    assert of[S.KV_RESOLUTION.key] == 600_000
    assert of[S.KV_REPORT.key] == 200_000


def test_without_the_workers_word_the_engines_counts() -> None:
    found = trace(
        rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, s=1 | KVFlag.ASYNCHRONOUS),
        rec(Kind.KV_LOADED, 11, 2_900, 2_400),
    )
    of = one(found, S.KV_LOAD.name).attributes
    assert of[S.KV_RESOLUTION.key] == 500_000
    assert S.KV_REPORT.key not in of
    assert of[S.KV_CONNECTOR.key] == "unknown"


def test_a_synchronous_load_is_its_workers_call() -> None:
    load = rec(Kind.KV_LOAD, 11, 3_100, 3_400, a=48 << 32 | 3, b=STEP, s=1)
    calls = [
        rec(Kind.WORKER_KV, STEP, 3_600, 3_700, c=KVCall.START_LOAD, s=0),
        rec(Kind.WORKER_KV, STEP, 3_650, 3_800, c=KVCall.START_LOAD, s=1),
    ]
    found = trace(named(1, "ExampleConnector"), load, calls=calls)
    span, prefill = one(found, S.KV_LOAD.name), one(found, S.PREFILL.name)
    assert span.parent_id == prefill.span_id
    assert (span.start_ns - prefill.start_ns, span.duration_ns) == (600_000, 200_000)
    assert trace(load).named(S.KV_LOAD.name) == (), "below level step nobody knows when it was"


def test_a_failed_load_says_what_is_not_there() -> None:
    found = trace(
        rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, s=1 | KVFlag.ASYNCHRONOUS),
        rec(Kind.KV_FAILED, 11, 2_890, a=32),
        rec(Kind.KV_LOADED, 11, 2_900, 2_400),
    )
    assert one(found, S.KV_LOAD.name).attributes[S.KV_TOKENS_RECOMPUTED.key] == 32


def test_what_failed_after_the_admission_was_computed() -> None:
    """A synchronous load: the admission says that it comes, the step's result that it did not."""
    load = rec(Kind.KV_LOAD, 11, 3_100, 3_400, a=48 << 32 | 3, b=STEP, s=1)
    whole, failed = trace(load), trace(load, rec(Kind.KV_FAILED, 11, 3_900, a=32))
    before, after = (one(each, S.PREFILL.name).attributes for each in (whole, failed))
    hit, computed = S.KV_TOKENS_HIT_EXTERNAL.key, S.PREFILL_COMPUTED.key
    assert isinstance(before[hit], int)
    assert after[hit] == max(before[hit] - 32, 0)
    assert after[hit] + after[computed] == before[hit] + before[computed]  # type: ignore[operator]


def test_an_end_is_of_the_load_before_it() -> None:
    """Preempted while loading, it loads again; the first one's end was lost."""
    asynchronous = 1 | KVFlag.ASYNCHRONOUS
    found = trace(
        rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, s=asynchronous),
        rec(Kind.KV_LOAD, 11, 2_500, 2_600, a=32 << 32 | 2, s=asynchronous),
        rec(Kind.KV_FAILED, 11, 2_850, a=32),
        rec(Kind.KV_LOADED, 11, 2_900, 2_400),
    )
    first, second = found.named(S.KV_LOAD.name)
    assert first.duration_ns == 700_000, "until the next one was ordered"
    assert S.KV_RESOLUTION.key not in first.attributes
    assert S.KV_TOKENS_RECOMPUTED.key not in first.attributes
    assert second.duration_ns == 400_000
    assert second.attributes[S.KV_TOKENS_RECOMPUTED.key] == 32


def test_of_children_nobody_says_which_failed() -> None:
    found = trace(
        rec(Kind.KV_LOAD, 11, 1_790, 1_900, a=48 << 32 | 3, s=1 << 6 | 2 | KVFlag.ASYNCHRONOUS),
        rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, s=1 | KVFlag.ASYNCHRONOUS),
        rec(Kind.KV_FAILED, 11, 2_850, a=32),
        rec(Kind.KV_LOADED, 11, 2_900, 2_400),
    )
    child, parent = found.named(S.KV_LOAD.name)
    assert S.KV_TOKENS_RECOMPUTED.key not in child.attributes
    assert parent.attributes[S.KV_TOKENS_RECOMPUTED.key] == 32
    assert child.end_ns == parent.end_ns


def test_a_store_that_goes_on_after_its_step_has_no_known_end() -> None:
    store = rec(Kind.KV_STORE, 11, 3_350, 6_000, a=64 << 32 | 4, c=100, s=1)
    span = one(trace(named(1, "OffloadingConnector"), store), S.KV_STORE.name)
    assert span.duration_ns == 2_650_000, "until the last order"
    assert span.attributes[S.KV_ASYNCHRONOUS.key] is True
    assert S.KV_RESOLUTION.key not in span.attributes


def test_a_load_that_never_ended_ends_with_the_request() -> None:
    load = rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, s=1 | KVFlag.ASYNCHRONOUS)
    span = one(trace(load), S.KV_LOAD.name)
    assert span.duration_ns == 6_800_000, "freed at 8600"
    assert S.KV_RESOLUTION.key not in span.attributes


def test_children_of_a_connector_bear_its_name() -> None:
    found = trace(
        named(1, "MultiConnector"),
        named(1 << 6 | 2, "ExampleConnector"),
        rec(Kind.KV_LOOKUP, 11, 3_100, 3_200, a=64 << 32 | 48, c=1, s=1),
        rec(Kind.KV_LOOKUP, 11, 3_110, 3_150, a=64 << 32 | 48, c=1, s=1 << 6 | 2),
    )
    names = [s.attributes[S.KV_CONNECTOR.key] for s in found.named(S.KV_CONNECTOR_LOOKUP.name)]
    assert names == ["MultiConnector", "MultiConnector/ExampleConnector"]


def test_a_store_lasts_until_its_blocks_are_free() -> None:
    store = rec(Kind.KV_STORE, 11, 3_350, 6_000, a=64 << 32 | 4, c=100, s=1 | KVFlag.ASYNCHRONOUS)
    sent = rec(Kind.KV_SENT, 11, 8_950, 8_700)
    span = one(trace(named(1, "LMCacheMPConnector"), store, sent), S.KV_STORE.name)
    assert span.duration_ns == 5_600_000
    assert span.attributes[S.KV_BYTES.key] == 400
    assert span.attributes[S.KV_RESOLUTION.key] == 250_000


def test_what_is_said_of_the_end_stands_on_the_part_that_holds_it() -> None:
    """A producer's blocks are sent after its response (9000)."""
    order = rec(Kind.KV_STORE, 11, 3_350, 6_000, a=64 << 32 | 4, s=1 | KVFlag.ASYNCHRONOUS)
    sent = rec(Kind.KV_SENT, 11, 9_950, 9_700)
    records = [*engine_records()[:-1], named(1, "LMCacheMPConnector"), order, sent, finished()]
    first, late = (one(found, S.KV_STORE.name) for found in traces_of(api_records(), records))
    of_the_end = (S.KV_DURATION.key, S.KV_RESOLUTION.key)
    assert not {*of_the_end} & {*first.attributes}
    assert first.attributes[S.KV_TOKENS.key] == 64
    assert first.duration_ns == 5_650_000
    assert [late.attributes[key] for key in of_the_end] == [6_600_000, 250_000]
    assert late.duration_ns == 950_000
    assert late.attributes[S.KV_CONNECTOR.key] == "LMCacheMPConnector"
    assert S.KV_TOKENS.key not in late.attributes, "they were told with the first part"
    assert late.attributes[S.REQUEST_ID.key] == first.attributes[S.REQUEST_ID.key]


def test_an_end_that_nobody_told_makes_no_duration() -> None:
    store = rec(Kind.KV_STORE, 11, 3_350, 6_000, a=64 << 32 | 4, s=1)
    assert S.KV_DURATION.key not in one(trace(store), S.KV_STORE.name).attributes
    load = rec(Kind.KV_LOAD, 11, 1_800, 1_900, a=48 << 32 | 3, s=1 | KVFlag.ASYNCHRONOUS)
    assert S.KV_DURATION.key not in one(trace(load), S.KV_LOAD.name).attributes
    ended = rec(Kind.KV_LOADED, 11, 2_900, 2_400)
    assert one(trace(load, ended), S.KV_LOAD.name).attributes[S.KV_DURATION.key] == 1_100_000


def test_a_request_whose_blocks_are_kept_is_not_finished() -> None:
    facts = EngineFacts(11, ENGINE)
    for record in (finished(), rec(Kind.REQ_OUT, 11, 5_500, 8_500)):
        facts.add(record)
    assert facts.finished
    facts.add(rec(Kind.KV_STORE, 11, 1, 2, s=1 | KVFlag.ASYNCHRONOUS))
    assert not facts.finished
    facts.add(rec(Kind.KV_SENT, 11, 9_000, 8_900))
    assert facts.finished


def test_evictions_name_whom_they_took_from() -> None:
    assembler = assembled(api_records(), engine_records())
    made = builder(assembler)
    (root,) = assembler.complete(us(60_000_000))
    made.request(root, us(60_000_000))
    other = EngineFacts(12, ENGINE)
    for record in (
        *(record._replace(key=12) for record in scheduled()),
        rec(Kind.KV_EVICTED, 12, 3_050, 2_050, a=11, b=7),
        rec(Kind.KV_EVICTED, 12, 3_060, 0, a=-5, b=2),
        rec(Kind.ENG_BLOCKS, 12, 3_000, 1_000, a=640 << 32 | 3, b=100),
    ):
        other.add(record)
    late = made.engine(other, None, us(9_000))
    assert late is not None
    (prefill,) = late.named(S.PREFILL.name)
    first, second = prefill.events
    assert first.attributes == {
        S.EVICTED_BLOCKS.key: 7,
        S.EVICTED_IDLE.key: 1_000_000,
        S.EVICTED_REQUEST.key: "cmpl-11",
        S.EVICTED_SESSION.key: "s-1",
    }
    assert second.attributes == {S.EVICTED_BLOCKS.key: 2}, "its owner is not known and still runs"
    assert prefill.attributes[S.KV_TOKENS_AGAIN.key] == 640
    assert prefill.attributes[S.KV_REUSED_BYTES.key] == 300
    assert prefill.attributes[S.KV_REUSED_IDLE.key] == 2_000_000


def test_the_request_on_the_other_server_is_on_the_prefill() -> None:
    prefill = one(
        trace(
            text(11, Field.REMOTE_REQUEST_ID, "cmpl-9"),
            text(11, Field.REMOTE_ENGINE_ID, "e"),
            text(11, Field.TRANSFER_ID, "t"),
        ),
        S.PREFILL.name,
    ).attributes
    assert prefill[S.KV_REMOTE_REQUEST.key] == "cmpl-9"
    assert prefill[S.KV_REMOTE_ENGINE.key] == "e"
    assert prefill[S.KV_TRANSFER_ID.key] == "t"
    assert S.KV_REMOTE_REQUEST.key not in one(trace(), S.PREFILL.name).attributes


def test_all_tries_of_a_lookup_are_one_or_told() -> None:
    once = one(trace(), S.KV_PREFIX_LOOKUP.name).attributes
    assert (once[S.TRIES_TOKENS_ASKED.key], once[S.TRIES_TOKENS_HIT.key]) == (64, 48)
    tried = rec(Kind.ENG_LOOKUP, 11, 3_020, 3_030, a=64 << 32 | 48, b=30_000, c=3)
    lost = one(trace(tried), S.KV_PREFIX_LOOKUP.name).attributes
    assert S.TRIES_TOKENS_HIT.key not in lost
    told = rec(Kind.ENG_TRIED, 11, 0, 0, a=192, b=112)
    thrice = one(trace(tried, told), S.KV_PREFIX_LOOKUP.name).attributes
    assert (thrice[S.TRIES_TOKENS_ASKED.key], thrice[S.TRIES_TOKENS_HIT.key]) == (192, 112)


def test_single_stores_are_events_of_the_store() -> None:
    """Of two ranks: each is over when the last of them knows it."""
    stored = [
        rec(Kind.WORKER_KV_STORED, 11, 3_400, 3_900, a=32 << 32 | 1, b=us(3_700), s=0),
        rec(Kind.WORKER_KV_STORED, 11, 3_400, 4_000, a=32 << 32 | 1, b=us(3_300), s=1),
        rec(Kind.WORKER_KV_STORED, 11, 5_000, 6_000, a=64 << 32 | 2, b=us(5_500), s=0),
        rec(Kind.WORKER_KV_STORED, 11, 5_000, 5_900, a=64 << 32 | 2, b=us(5_400), s=1),
    ]
    store = rec(Kind.KV_STORE, 11, 3_350, 5_000, a=96 << 32 | 6, s=1 | KVFlag.ASYNCHRONOUS)
    sent = rec(Kind.KV_SENT, 11, 8_950, 8_700)
    span = one(trace(named(1, "LMCacheMPConnector"), store, sent, *stored), S.KV_STORE.name)
    assert [(e.name, e.time_ns - span.start_ns, e.attributes) for e in span.events] == [
        (
            S.EVENT_STORED,
            650_000,
            {
                S.KV_TOKENS.key: 32,
                S.STORED_DURATION.key: 600_000,
                S.KV_RESOLUTION.key: 600_000,
            },
        ),
        (
            S.EVENT_STORED,
            2_650_000,
            {
                S.KV_TOKENS.key: 64,
                S.STORED_DURATION.key: 1_000_000,
                S.KV_RESOLUTION.key: 500_000,
                S.STORED_TOGETHER.key: 2,
            },
        ),
    ]
    other = one(trace(named(1, "NixlConnector"), store, sent, *stored), S.KV_STORE.name)
    assert other.events == ()


def test_a_store_known_to_end_later_ends_then() -> None:
    store = rec(Kind.KV_STORE, 11, 3_350, 5_000, a=96 << 32 | 6, s=1)
    stored = rec(Kind.WORKER_KV_STORED, 11, 5_000, 6_000, a=96 << 32 | 1, b=us(5_500))
    span = one(trace(named(1, "LMCacheMPConnector"), store, stored), S.KV_STORE.name)
    assert span.duration_ns == 2_650_000
