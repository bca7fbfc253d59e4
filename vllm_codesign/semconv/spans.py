"""Spans of a request's trace: its two kinds of root, what they carry, and the list of all.

The children are declared where the work is done: `frontend_spans` for the API server's,
`engine_spans` for EngineCore's.
"""

from __future__ import annotations

from enum import StrEnum

from vllm_codesign.semconv.attributes import HTTP_REQUEST_SIZE, MONOTONIC, PER_ENGINE_REQUEST
from vllm_codesign.semconv.engine_spans import (
    DECODE,
    ENGINE_QUEUE,
    KV_ALLOCATE,
    KV_PREFIX_LOOKUP,
    PREFILL,
)
from vllm_codesign.semconv.frontend_spans import (
    DETOKENIZE,
    ENGINE_DISPATCH,
    ENGINE_RETURN,
    FRONTEND_RUN,
    FRONTEND_WAIT,
    HTTP_RECEIVE,
    STREAM_SEND,
    TEMPLATE_RENDER,
    TEMPLATE_WAIT,
    TOKENIZE_ENCODE,
    TOKENIZE_WAIT,
)
from vllm_codesign.semconv.kv_spans import KV_CONNECTOR_LOOKUP, KV_LOAD, KV_STORE
from vllm_codesign.semconv.parts import BOTTLENECK, HOST_EXPOSED, HOST_HIDDEN, PART_TIMES
from vllm_codesign.semconv.service import Service
from vllm_codesign.semconv.types import Attribute, SpanKind


class Outcome(StrEnum):
    """How a request ended, whatever its HTTP status said."""

    COMPLETED = "completed"
    ABORTED = "aborted"  # the client went away
    REJECTED = "rejected"  # refused before the engine saw it: 4xx, too long, bad parameters
    FAILED = "failed"  # an error in the server or the engine


OPERATION_NAME = Attribute("gen_ai.operation.name", "string", "`chat`, `text_completion`, …")
PROVIDER_NAME = Attribute("gen_ai.provider.name", "string", "Always `vllm`.")
REQUEST_MODEL = Attribute("gen_ai.request.model", "string", "Model that the request asked for.")
REQUEST_MAX_TOKENS = Attribute("gen_ai.request.max_tokens", "int", "Limit on generated tokens.")
REQUEST_TEMPERATURE = Attribute("gen_ai.request.temperature", "double", "Sampling temperature.")
REQUEST_TOP_P = Attribute("gen_ai.request.top_p", "double", "Nucleus sampling.")
REQUEST_CHOICE_COUNT = Attribute("gen_ai.request.choice.count", "int", "`n`, where it is not 1.")
RESPONSE_FINISH_REASONS = Attribute(
    "gen_ai.response.finish_reasons", "string[]", "One per choice: `stop`, `length`, `abort`, …"
)
RESPONSE_TTFC = Attribute(
    "gen_ai.response.time_to_first_chunk",
    "double",
    "From the first byte in to the first chunk of the body handed to the socket.",
    "s",
)
USAGE_INPUT_TOKENS = Attribute("gen_ai.usage.input_tokens", "int", "Prompt tokens, all prompts.")
USAGE_OUTPUT_TOKENS = Attribute("gen_ai.usage.output_tokens", "int", "Generated tokens.")
USAGE_CACHE_READ = Attribute(
    "gen_ai.usage.cache_read.input_tokens", "int", "Prompt tokens found in a KV cache."
)
HTTP_METHOD = Attribute("http.request.method", "string", "HTTP method.")
HTTP_ROUTE = Attribute("http.route", "string", "Path of the route.")
HTTP_STATUS = Attribute(
    "http.response.status_code", "int", "Status sent; absent where none was sent."
)
SESSION_ID = Attribute("session.id", "string", "Value of the `X-Session-ID` header.")
ERROR_TYPE = Attribute("error.type", "string", "Class of the error, or the status code.")

OUTCOME = Attribute(
    "codesign.outcome", "string", "`completed`, `aborted`, `rejected` or `failed`: not the status."
)
LEVEL = Attribute("codesign.level", "string", "Level in force when the request came in.")
STREAMING = Attribute("codesign.streaming", "boolean", "The response is an event stream.")
LOSSY = Attribute(
    "codesign.lossy", "boolean", "Records of this server were lost while this request ran."
)
LINK_REASON = Attribute("codesign.link", "string", "Why two traces are linked.")

ENGINE_REQUEST = SpanKind(
    "engine.request",
    Service.ENGINE,
    "what the engine did for a request without an HTTP response, or after its end, begins",
    "the scheduler frees the request",
    (*PER_ENGINE_REQUEST, OUTCOME, RESPONSE_FINISH_REASONS, LINK_REASON, LOSSY, MONOTONIC),
)
SERVER = SpanKind(
    "{method} {route}",
    Service.API,
    "first byte in",
    "last byte out",
    (
        OPERATION_NAME,
        PROVIDER_NAME,
        REQUEST_MODEL,
        REQUEST_MAX_TOKENS,
        REQUEST_TEMPERATURE,
        REQUEST_TOP_P,
        REQUEST_CHOICE_COUNT,
        RESPONSE_FINISH_REASONS,
        RESPONSE_TTFC,
        USAGE_INPUT_TOKENS,
        USAGE_OUTPUT_TOKENS,
        USAGE_CACHE_READ,
        HTTP_METHOD,
        HTTP_ROUTE,
        HTTP_STATUS,
        HTTP_REQUEST_SIZE,
        SESSION_ID,
        ERROR_TYPE,
        OUTCOME,
        LEVEL,
        STREAMING,
        LOSSY,
        MONOTONIC,
        HOST_EXPOSED,
        HOST_HIDDEN,
        BOTTLENECK,
        *PART_TIMES,
    ),
)

SPANS: tuple[SpanKind, ...] = (
    SERVER,
    HTTP_RECEIVE,
    TEMPLATE_WAIT,
    TEMPLATE_RENDER,
    TOKENIZE_WAIT,
    TOKENIZE_ENCODE,
    FRONTEND_WAIT,
    FRONTEND_RUN,
    ENGINE_DISPATCH,
    ENGINE_QUEUE,
    KV_PREFIX_LOOKUP,
    KV_CONNECTOR_LOOKUP,
    KV_ALLOCATE,
    KV_LOAD,
    PREFILL,
    DECODE,
    KV_STORE,
    ENGINE_RETURN,
    DETOKENIZE,
    STREAM_SEND,
    ENGINE_REQUEST,
)
SPAN_BY_NAME = {span.name: span for span in SPANS}
