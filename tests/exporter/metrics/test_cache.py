"""What KV caches did, from spans: transfers, and bytes that lay there for nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.exporter.records import SPAN, TRACE, api_records, engine_records, the_trace
from tests.support.measured import measured
from vllm_codesign import semconv as S
from vllm_codesign.exporter.metrics.cache import CacheMetrics
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span, SpanEvent
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.semconv import metrics as M

ENGINE = 200


def changed(trace: RequestTrace, name: str, span: Span) -> RequestTrace:
    kept = tuple(span if each.name == name else each for each in trace.children)
    return RequestTrace(trace.root, kept)


def prefill_with(attributes: dict[str, AttributeValue], *events: SpanEvent) -> RequestTrace:
    trace = the_trace(api_records(), engine_records())
    (span,) = trace.named(S.PREFILL.name)
    of = {**span.attributes, S.ENGINE_PID.key: ENGINE, **attributes}
    return changed(trace, span.name, replace(span, attributes=of, events=events))


def evicted(blocks: int, idle_ns: int) -> SpanEvent:
    of: dict[str, AttributeValue] = {S.EVICTED_BLOCKS.key: blocks, S.EVICTED_IDLE.key: idle_ns}
    return SpanEvent(S.EVENT_EVICTED, 1, of)


def block_of(size: int) -> Record:
    return Record(0, Kind.ENG_BLOCKS, 0, 0, 1, 0, 0, 0, size)


def test_stranded_bytes_of_blocks_found_and_of_blocks_evicted() -> None:
    made = measured()
    cache = CacheMetrics(made.board, made.histograms)
    found: dict[str, AttributeValue] = {
        S.KV_REUSED_BYTES.key: 4_096,
        S.KV_REUSED_IDLE.key: 2_000_000_000,
        S.KV_TOKENS_AGAIN.key: 5,
    }
    trace = prefill_with(found, evicted(3, 1_000_000_000))
    cache.take(trace, made.histograms.ids(trace.root, True))
    assert made.exported().value(M.STRANDED) == 8_192, "how large a block is is not known yet"
    cache.learn(ENGINE, block_of(1_024))
    assert made.exported().value(M.STRANDED) == 8_192 + 3_072
    cache.take(prefill_with({}, evicted(1, 500_000_000)), made.histograms.ids(trace.root, True))
    said = made.exported()
    assert said.value(M.STRANDED) == 8_192 + 3_072 + 512
    assert said.by(M.KV_TOKENS, "codesign_kv_source")["computed_again"] == 5


def test_an_owner_that_still_ran_strands_nothing() -> None:
    made = measured()
    cache = CacheMetrics(made.board, made.histograms)
    cache.learn(ENGINE, block_of(1_024))
    trace = prefill_with({}, SpanEvent(S.EVENT_EVICTED, 1, {S.EVICTED_BLOCKS.key: 3}))
    cache.take(trace, made.histograms.ids(trace.root, True))
    assert made.exported().value(M.STRANDED) == 0


def test_transfers_by_connector_and_tier() -> None:
    made = measured()
    cache = CacheMetrics(made.board, made.histograms)
    trace = the_trace(api_records(), engine_records())
    of: dict[str, AttributeValue] = {
        S.KV_CONNECTOR.key: "OffloadingConnector",
        S.KV_TIER.key: "host",
        S.KV_BYTES.key: 2_048,
        S.KV_TOKENS.key: 256,
        S.KV_DURATION.key: 5_000_000,
    }
    load = replace(trace.children[0], name=S.KV_LOAD.name, attributes=of)
    store = replace(load, name=S.KV_STORE.name, attributes={**of, S.KV_TOKENS.key: 64})
    # Its end is not known, or stands on what outlived the response.
    cut = replace(load, name=S.KV_STORE.name, attributes={S.KV_CONNECTOR.key: "LMCache"})
    cache.take(
        RequestTrace(trace.root, (load, load, store, cut)), made.histograms.ids(trace.root, True)
    )
    said = made.exported()
    where = {"codesign_kv_connector": "OffloadingConnector", "codesign_kv_tier": "host"}
    by_transfer = "codesign_kv_transfer"
    assert said.by(M.KV_TRANSFER_BYTES, by_transfer) == {"load": 4_096, "store": 2_048}
    assert said.by(M.KV_TRANSFER_TOKENS, by_transfer) == {"load": 512, "store": 64}
    counts = said.by(M.KV_TRANSFER_DURATION, by_transfer, "_count")
    assert counts == {"load": 2, "store": 1}
    assert said.by(M.KV_TRANSFER_DURATION, by_transfer, "_sum")["load"] == pytest.approx(0.01)
    assert said.value(M.KV_TRANSFER_BYTES, **where) == 6_144
    (exemplar, _) = said.exemplars(M.KV_TRANSFER_DURATION)
    assert exemplar.labels == {"trace_id": f"{TRACE:032x}", "span_id": f"{SPAN:016x}"}
