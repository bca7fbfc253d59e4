"""Names, units and meanings of every span and attribute, once.

Where OpenTelemetry has a convention (`gen_ai.*`, `http.*`, `session.id`, `error.type`)
its names are used; `tests/test_semconv.py` holds them against OpenTelemetry's own
constants. Everything else is `codesign.*`. `docs/spans.md` is generated from this module.

This module is imported inside vLLM: standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Service(StrEnum):
    """Suffix that a span's process adds to `service.name` (trace viewers colour by it)."""

    API = ""
    ENGINE = "-engine"
    WORKER = "-worker"


class Outcome(StrEnum):
    """How a request ended, whatever its HTTP status said."""

    COMPLETED = "completed"
    ABORTED = "aborted"  # the client went away
    REJECTED = "rejected"  # refused before the engine saw it: 4xx, too long, bad parameters
    FAILED = "failed"  # an error in the server or the engine


class QueueReason(StrEnum):
    """Why a request stayed in the scheduler's waiting queue."""

    NO_FREE_BLOCKS = "no_free_blocks"
    NO_SLOT = "no_slot"
    TOKEN_BUDGET = "token_budget"
    BEHIND_HEAD = "behind_head"
    KV_LOAD = "kv_load"
    KV_LOOKUP = "kv_lookup"
    GRAMMAR = "grammar"
    LORA_LIMIT = "lora_limit"
    ENCODER_BUDGET = "encoder_budget"
    PAUSED = "paused"
    PREEMPTION = "preemption"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its key, the type of its value, unit and meaning."""

    key: str
    type: str  # "string", "int", "double", "boolean", "string[]", "int[]", "double[]"
    brief: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class SpanKind:
    """One kind of span: where it starts and ends, and the attributes it may carry."""

    name: str
    service: Service
    starts: str
    ends: str
    attributes: tuple[Attribute, ...] = ()
    aggregate: bool = False
    """True where the span stands for many short stretches of the stream it covers."""


# --- attributes that OpenTelemetry names ------------------------------------------------
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
HTTP_REQUEST_SIZE = Attribute("http.request.body.size", "int", "Bytes of the body.", "By")
SESSION_ID = Attribute("session.id", "string", "Value of the `X-Session-ID` header.")
ERROR_TYPE = Attribute("error.type", "string", "Class of the error, or the status code.")

# --- our own ------------------------------------------------------------------------------
OUTCOME = Attribute(
    "codesign.outcome", "string", "`completed`, `aborted`, `rejected` or `failed`: not the status."
)
LEVEL = Attribute("codesign.level", "string", "Level in force when the request came in.")
REQUEST_ID = Attribute("codesign.request.id", "string", "vLLM's internal request id.")
REQUEST_INDEX = Attribute(
    "codesign.request.index", "int", "Which engine request of this HTTP request, from 0."
)
STREAMING = Attribute("codesign.streaming", "boolean", "The response is an event stream.")
POOL_SIZE = Attribute("codesign.pool.size", "int", "Threads of the renderer pool.")
POOL_AHEAD = Attribute(
    "codesign.pool.ahead", "int", "Jobs queued or running in the pool when this one was queued."
)
TOKENS = Attribute("codesign.tokens", "int", "Tokens that this phase handled.")
BATCH_SIZE = Attribute("codesign.batch.size", "int", "Prompts encoded by one call (0.19).")
BATCH_DURATION = Attribute(
    "codesign.batch.duration_ns", "int", "Length of that call; this span is its share.", "ns"
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
QUEUE_REASON = Attribute("codesign.queue.reason", "string", "The reason with the longest time.")
QUEUE_REASON_TIMES = tuple(
    Attribute(f"codesign.queue.{reason.value}_ns", "int", f"Time waiting: {reason.value}.", "ns")
    for reason in QueueReason
)
TRIES = Attribute("codesign.tries", "int", "Calls until the request was admitted.")
TRIES_DURATION = Attribute("codesign.tries.duration_ns", "int", "Time in all those calls.", "ns")
KV_TOKENS_ASKED = Attribute("codesign.kv.tokens.asked", "int", "Prompt tokens looked up.")
KV_TOKENS_HIT_HBM = Attribute(
    "codesign.kv.tokens.hit.hbm", "int", "Tokens found in the device's prefix cache."
)
KV_TOKENS_HIT_EXTERNAL = Attribute(
    "codesign.kv.tokens.hit.external", "int", "Tokens found by the KV connector."
)
KV_BLOCKS = Attribute("codesign.kv.blocks", "int", "Blocks allocated.")
KV_BLOCKS_EVICTED = Attribute(
    "codesign.kv.blocks.evicted", "int", "Cached blocks that this allocation evicted."
)
PREFILL_CHUNKS = Attribute("codesign.prefill.chunks", "int", "Steps that computed prompt tokens.")
PREFILL_COMPUTED = Attribute("codesign.prefill.tokens.computed", "int", "Prompt tokens computed.")
DECODE_STEPS = Attribute(
    "codesign.decode.steps",
    "int",
    "Engine steps from first to last token, those while it was preempted included.",
)
DECODE_BATCH_MEAN = Attribute(
    "codesign.decode.batch.mean", "double", "Mean number of requests in those steps."
)
DECODE_ALLOCATE_CALLS = Attribute(
    "codesign.decode.allocate.calls", "int", "Block allocations while decoding."
)
DECODE_ALLOCATE_DURATION = Attribute(
    "codesign.decode.allocate.duration_ns", "int", "Time in them.", "ns"
)
DECODE_BLOCKS = Attribute("codesign.decode.kv.blocks", "int", "Blocks they got.")
DECODE_BLOCKS_EVICTED = Attribute(
    "codesign.decode.kv.blocks.evicted", "int", "Cached blocks that they evicted."
)
DECODE_ITL = Attribute(
    "codesign.decode.itl_us", "int[]", "Time from each engine output to the next, in order.", "us"
)
PREEMPTIONS = Attribute("codesign.preemptions", "int", "Times the request was preempted.")
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
CALLS = Attribute("codesign.calls", "int", "Calls that this aggregate stands for.")
BUSY = Attribute("codesign.busy_ns", "int", "Time inside those calls.", "ns")
FIRST_CALL = Attribute("codesign.first_call_ns", "int", "Length of the first of them.", "ns")
BODY_BYTES = Attribute("codesign.body.bytes", "int", "Bytes handed to the socket.", "By")
STAGE = Attribute(
    "codesign.stage",
    "string",
    "`prepare`: before the first hand-over; `rendered`, `tokenized`: after that; `respond`: after "
    "the last engine output.",
)
LOSSY = Attribute(
    "codesign.lossy", "boolean", "Records of this server were lost while this request ran."
)
LINK_REASON = Attribute("codesign.link", "string", "Why two traces are linked.")

EVENT_PREEMPTED = "codesign.preempted"
EVENT_TOKENS_LOST = Attribute(
    "codesign.tokens.lost", "int", "Computed tokens that a preemption threw away."
)

# --- spans --------------------------------------------------------------------------------
_PER_ENGINE_REQUEST = (REQUEST_ID, REQUEST_INDEX)

HTTP_RECEIVE = SpanKind(
    "http.receive",
    Service.API,
    "first byte in",
    "body parsed and validated, the route's function entered",
    (HTTP_REQUEST_SIZE,),
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
        *_PER_ENGINE_REQUEST,
        DISPATCH_PROCESS,
        DISPATCH_SERIALIZE,
        DISPATCH_TRANSIT,
        DISPATCH_PREPROCESS,
        DISPATCH_INPUT_QUEUE,
    ),
)
ENGINE_QUEUE = SpanKind(
    "engine.queue",
    Service.ENGINE,
    "in the scheduler's waiting queue",
    "entry of the `schedule()` call that admits it",
    (*_PER_ENGINE_REQUEST, QUEUE_REASON, *QUEUE_REASON_TIMES),
)
KV_PREFIX_LOOKUP = SpanKind(
    "kv.prefix_lookup",
    Service.ENGINE,
    "`get_computed_blocks()` of the step that admits it",
    "its return",
    (*_PER_ENGINE_REQUEST, KV_TOKENS_ASKED, KV_TOKENS_HIT_HBM, TRIES, TRIES_DURATION),
)
KV_ALLOCATE = SpanKind(
    "kv.allocate",
    Service.ENGINE,
    "`allocate_slots()` of the step that admits it",
    "its return",
    (*_PER_ENGINE_REQUEST, KV_BLOCKS, KV_BLOCKS_EVICTED, TRIES, TRIES_DURATION),
)
PREFILL = SpanKind(
    "prefill",
    Service.ENGINE,
    "entry of the `schedule()` call that admits it",
    "first token: the time stamp on EngineCore's output",
    (
        *_PER_ENGINE_REQUEST,
        PREFILL_CHUNKS,
        PREFILL_COMPUTED,
        KV_TOKENS_HIT_HBM,
        KV_TOKENS_HIT_EXTERNAL,
        PREEMPTIONS,
    ),
)
DECODE = SpanKind(
    "decode",
    Service.ENGINE,
    "first token",
    "last token: the time stamp on EngineCore's last output",
    (
        *_PER_ENGINE_REQUEST,
        TOKENS,
        DECODE_STEPS,
        DECODE_BATCH_MEAN,
        DECODE_ITL,
        DECODE_ALLOCATE_CALLS,
        DECODE_ALLOCATE_DURATION,
        DECODE_BLOCKS,
        DECODE_BLOCKS_EVICTED,
        PREEMPTIONS,
    ),
)
ENGINE_RETURN = SpanKind(
    "engine.return",
    Service.API,
    "the last output leaves EngineCore (its time stamp)",
    "the API server has processed it",
    (
        *_PER_ENGINE_REQUEST,
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
    (*_PER_ENGINE_REQUEST, CALLS, BUSY, FIRST_CALL, TOKENS),
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
ENGINE_REQUEST = SpanKind(
    "engine.request",
    Service.ENGINE,
    "what the engine did for a request without an HTTP response, or after its end, begins",
    "the scheduler frees the request",
    (*_PER_ENGINE_REQUEST, OUTCOME, RESPONSE_FINISH_REASONS, LINK_REASON, LOSSY),
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
    KV_ALLOCATE,
    PREFILL,
    DECODE,
    ENGINE_RETURN,
    DETOKENIZE,
    STREAM_SEND,
    ENGINE_REQUEST,
)
SPAN_BY_NAME = {span.name: span for span in SPANS}

DEFAULT_SERVICE_NAME = "vllm"
SCOPE_NAME = "vllm_codesign"
MAX_STRING_BYTES = 2048  # Tempo cuts attribute values there
MAX_EVENTS = 128  # the OpenTelemetry SDK's default limit per span
