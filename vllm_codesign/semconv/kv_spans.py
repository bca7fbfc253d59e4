"""Spans of KV connectors: what they were asked for, loaded and stored for one request."""

from __future__ import annotations

from vllm_codesign.semconv.attributes import ENGINE_PID, PER_ENGINE_REQUEST
from vllm_codesign.semconv.engine_spans import KV_TOKENS_ASKED, TRIES, TRIES_DURATION
from vllm_codesign.semconv.service import Service
from vllm_codesign.semconv.types import Attribute, SpanKind

KV_CONNECTOR = Attribute(
    "codesign.kv.connector",
    "string",
    "Class of the connector; of one that another calls, both, with a slash between them.",
)
KV_TIER = Attribute(
    "codesign.kv.tier",
    "string",
    "Where it keeps the blocks: `host`, `disk`, `remote`, or `external` where that is not known.",
)
KV_TOKENS = Attribute("codesign.kv.tokens", "int", "Tokens found, loaded or stored.")
KV_TRANSFER_BLOCKS = Attribute("codesign.kv.transfer.blocks", "int", "Blocks that hold them.")
KV_BYTES = Attribute("codesign.kv.bytes", "int", "Bytes of these blocks on one rank.", "By")
KV_ASYNCHRONOUS = Attribute(
    "codesign.kv.asynchronous", "boolean", "Over when it is reported, not when the call returns."
)
KV_DURATION = Attribute(
    "codesign.kv.transfer.duration_ns",
    "int",
    "From the order to its known end, which is this span's; a response that ends before it cuts "
    "the span, and its trace, in two.",
    "ns",
)
KV_RESOLUTION = Attribute(
    "codesign.kv.resolution_ns",
    "int",
    "The end may lie this much before the span's: transfers are asked for once a step.",
    "ns",
)
KV_REPORT = Attribute(
    "codesign.kv.report.duration_ns",
    "int",
    "From the worker's learning of the end to the engine's.",
    "ns",
)
KV_PENDING = Attribute(
    "codesign.kv.pending", "boolean", "The connector's last answer was to ask again later."
)
KV_TOKENS_RECOMPUTED = Attribute(
    "codesign.kv.tokens.recomputed",
    "int",
    "Tokens that a failed load did not bring: computed again, or the request failed.",
)

EVENT_STORED = "codesign.kv.stored"
STORED_DURATION = Attribute(
    "codesign.kv.stored.duration_ns",
    "int",
    "From the worker's order to the poll that finds it over.",
    "ns",
)
STORED_TOGETHER = Attribute(
    "codesign.kv.stored.together",
    "int",
    "Stores that end here, where a later one was ordered before an earlier one was seen to end; "
    "the duration is from the first.",
)
STORED = (KV_TOKENS, STORED_DURATION, KV_RESOLUTION, STORED_TOGETHER)

_TRANSFER = (
    *PER_ENGINE_REQUEST,
    ENGINE_PID,
    KV_CONNECTOR,
    KV_TIER,
    KV_TOKENS,
    KV_TRANSFER_BLOCKS,
    KV_BYTES,
    KV_ASYNCHRONOUS,
    KV_DURATION,
    KV_RESOLUTION,
    KV_REPORT,
)

KV_CONNECTOR_LOOKUP = SpanKind(
    "kv.connector_lookup",
    Service.ENGINE,
    "the last `get_num_new_matched_tokens()`",
    "its return",
    (
        *PER_ENGINE_REQUEST,
        KV_CONNECTOR,
        KV_TIER,
        KV_TOKENS_ASKED,
        KV_TOKENS,
        KV_PENDING,
        TRIES,
        TRIES_DURATION,
    ),
)
KV_LOAD = SpanKind(
    "kv.load",
    Service.ENGINE,
    "asynchronous: the connector is told to; else: a worker's `start_load_kv()`",
    "asynchronous: the engine learns that it is over; else: the last worker's call returns",
    (*_TRANSFER, KV_TOKENS_RECOMPUTED),
)
KV_STORE = SpanKind(
    "kv.store",
    Service.ENGINE,
    "the connector is told to store the first of it",
    "its blocks are no longer needed; where it does not keep them: the last worker's "
    "`wait_for_save()` returns",
    _TRANSFER,
)
