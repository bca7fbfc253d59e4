"""Spans of the API server: everything before the engine has the request, and after."""

from __future__ import annotations

from vllm_codesign.semconv.attributes import (
    BUSY,
    CALLS,
    HTTP_REQUEST_SIZE,
    PER_ENGINE_REQUEST,
    TOKENS,
)
from vllm_codesign.semconv.service import Service
from vllm_codesign.semconv.types import Attribute, SpanKind

POOL_SIZE = Attribute("codesign.pool.size", "int", "Threads of the renderer pool.")
POOL_AHEAD = Attribute(
    "codesign.pool.ahead", "int", "Jobs queued or running in the pool when this one was queued."
)
BATCH_SIZE = Attribute("codesign.batch.size", "int", "Prompts encoded by one call (0.19).")
BATCH_DURATION = Attribute(
    "codesign.batch.duration_ns", "int", "Length of that call; this span is its share.", "ns"
)
RECEIVE_BODY = Attribute(
    "codesign.receive.body_ns", "int", "Of it: until the last byte of the body was in.", "ns"
)
DISPATCH_REGISTER = Attribute(
    "codesign.dispatch.register_ns",
    "int",
    "Of it: until the request was registered with the output processor.",
    "ns",
)
DISPATCH_CLIENT = Attribute(
    "codesign.dispatch.client_ns", "int", "Of it: until its encoding began.", "ns"
)
DISPATCH_PROCESS = Attribute(
    "codesign.dispatch.process_inputs_ns", "int", "Of it: validating, cloning parameters.", "ns"
)
DISPATCH_SERIALIZE = Attribute(
    "codesign.dispatch.serialize_ns", "int", "Of it: encoding and handing to the socket.", "ns"
)
DISPATCH_TRANSIT = Attribute(
    "codesign.dispatch.transit_ns",
    "int",
    "Of it: socket, decoding and waiting for EngineCore's input thread.",
    "ns",
)
DISPATCH_PREPROCESS = Attribute(
    "codesign.dispatch.preprocess_ns",
    "int",
    "Of it: EngineCore's input thread, block hashes.",
    "ns",
)
DISPATCH_INPUT_QUEUE = Attribute(
    "codesign.dispatch.input_queue_ns",
    "int",
    "Of it: EngineCore's input queue (a step runs).",
    "ns",
)
RETURN_TRANSIT = Attribute(
    "codesign.return.transit_ns",
    "int",
    "Last output: EngineCore's stamp to decoded in the API server.",
    "ns",
)
RETURN_OUTPUT_QUEUE = Attribute(
    "codesign.return.output_queue_ns",
    "int",
    "Last output: decoded to the API server's output handler taking it up.",
    "ns",
)
RETURN_PROCESS = Attribute(
    "codesign.return.process_ns", "int", "Last output: the output handler's batch.", "ns"
)
RETURN_COUNT = Attribute("codesign.return.count", "int", "Engine outputs received.")
RETURN_TOTAL = Attribute(
    "codesign.return.total_ns", "int", "Sum over all outputs, stamp to processed.", "ns"
)
FIRST_CALL = Attribute("codesign.first_call_ns", "int", "Length of the first of them.", "ns")
BODY_BYTES = Attribute("codesign.body.bytes", "int", "Bytes handed to the socket.", "By")
STAGE = Attribute(
    "codesign.stage",
    "string",
    "`prepare`: before the first hand-over; `rendered`, `tokenized`: after that; `respond`: after "
    "the last engine output.",
)

HTTP_RECEIVE = SpanKind(
    "http.receive",
    Service.API,
    "first byte in",
    "body parsed and validated, the route's function entered",
    (HTTP_REQUEST_SIZE, RECEIVE_BODY),
)
TEMPLATE_WAIT = SpanKind(
    "chat_template.wait",
    Service.API,
    "queued in the renderer pool",
    "a pool thread takes it",
    (POOL_SIZE, POOL_AHEAD),
)
TEMPLATE_RENDER = SpanKind(
    "chat_template.render", Service.API, "a pool thread takes it", "template rendered"
)
TOKENIZE_WAIT = SpanKind(
    "tokenize.wait",
    Service.API,
    "queued in the renderer pool (0.19: in the tokenizer's batch queue)",
    "the encode of this prompt begins",
    (POOL_SIZE, POOL_AHEAD),
)
TOKENIZE_ENCODE = SpanKind(
    "tokenize.encode",
    Service.API,
    "the encode of this prompt begins",
    "token ids are there",
    (TOKENS, BATCH_SIZE, BATCH_DURATION),
)
FRONTEND_WAIT = SpanKind(
    "frontend.wait",
    Service.API,
    "what the request waited for is there: its template, its token ids, its last output",
    "its coroutine runs again on the event loop",
    (STAGE,),
)
FRONTEND_RUN = SpanKind(
    "frontend.run",
    Service.API,
    "its coroutine runs again (`prepare`: the route's function is entered)",
    "the next hand-over: queued in the pool, handed to the engine client, last byte out",
    (STAGE,),
)
ENGINE_DISPATCH = SpanKind(
    "engine.dispatch",
    Service.API,
    "handed to the engine client",
    "in the scheduler's waiting queue",
    (
        *PER_ENGINE_REQUEST,
        DISPATCH_REGISTER,
        DISPATCH_CLIENT,
        DISPATCH_PROCESS,
        DISPATCH_SERIALIZE,
        DISPATCH_TRANSIT,
        DISPATCH_PREPROCESS,
        DISPATCH_INPUT_QUEUE,
    ),
)
ENGINE_RETURN = SpanKind(
    "engine.return",
    Service.API,
    "the last output leaves EngineCore (its time stamp)",
    "the API server has processed it",
    (
        *PER_ENGINE_REQUEST,
        RETURN_TRANSIT,
        RETURN_OUTPUT_QUEUE,
        RETURN_PROCESS,
        RETURN_COUNT,
        RETURN_TOTAL,
    ),
)
DETOKENIZE = SpanKind(
    "detokenize",
    Service.API,
    "first detokenizer call",
    "end of the last one",
    (*PER_ENGINE_REQUEST, CALLS, BUSY, FIRST_CALL, TOKENS),
    aggregate=True,
)
STREAM_SEND = SpanKind(
    "stream.send",
    Service.API,
    "response headers handed to the socket",
    "last byte handed to the socket",
    (CALLS, BUSY, FIRST_CALL, BODY_BYTES),
    aggregate=True,
)
