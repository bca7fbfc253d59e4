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


class Part(StrEnum):
    """What a request's wall time is made of; every instant belongs to exactly one.

    In the order of precedence: where several apply at an instant, the first one has it.
    `docs/accounting.md` defines each.
    """

    DEVICE_PREFILL = "device.prefill"
    DEVICE_DECODE = "device.decode"
    KV_LOAD = "kv.load"
    GAP_PREPARE = "device.gap.prepare"
    GAP_SCHEDULE = "device.gap.schedule"
    GAP_UPDATE = "device.gap.update"
    GAP_IPC = "device.gap.ipc"
    GAP_OUTPUT = "device.gap.output"
    GAP_OTHER = "device.gap.other"
    # These three stand for the device's and the queue's parts where no steps were recorded.
    ENGINE_PREFILL = "engine.prefill"
    ENGINE_DECODE = "engine.decode"
    ENGINE_QUEUE = "engine.queue"
    QUEUE_CAPACITY = "queue.capacity"
    QUEUE_HOST = "queue.host"
    IPC = "ipc"
    FRONTEND_CPU = "frontend.cpu"
    FRONTEND_WAIT = "frontend.wait"
    UNATTRIBUTED = "unattributed"


HOST_PARTS = frozenset(
    (
        Part.GAP_PREPARE,
        Part.GAP_SCHEDULE,
        Part.GAP_UPDATE,
        Part.GAP_IPC,
        Part.GAP_OUTPUT,
        Part.GAP_OTHER,
        Part.QUEUE_HOST,
        Part.IPC,
        Part.FRONTEND_CPU,
        Part.FRONTEND_WAIT,
    )
)
"""The parts that are exposed host time."""

AVOIDABLE_PARTS = HOST_PARTS | {Part.QUEUE_CAPACITY, Part.ENGINE_QUEUE, Part.KV_LOAD}
"""What a `codesign.bottleneck` may be: all but the device's own work and what is not known."""


class IdleCause(StrEnum):
    """Why the device stood idle while there was work in the house (throughput view)."""

    PREPARE = "prepare"
    SCHEDULE = "schedule"
    UPDATE = "update"
    IPC = "ipc"
    OUTPUT = "output"
    OTHER = "other"
    KV_LOAD = "kv_load"
    FRONTEND = "frontend"
    NO_WORK = "no_work"


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


@dataclass(frozen=True, slots=True)
class Series:
    """One sampled figure of a capture's `series/`."""

    name: str
    unit: str
    """As UCUM writes it: `1` for a share, `By`, `W`, `Cel`, `{step}`."""
    brief: str
    attributes: tuple[Attribute, ...] = ()


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
QUEUE_REASON = Attribute("codesign.queue.reason", "string", "The reason with the longest time.")
QUEUE_REASON_TIMES = tuple(
    Attribute(f"codesign.queue.{reason.value}_ns", "int", f"Time waiting: {reason.value}.", "ns")
    for reason in QueueReason
)
TRIES = Attribute("codesign.tries", "int", "Calls until the request was admitted.")
TRIES_DURATION = Attribute("codesign.tries.duration_ns", "int", "Time in all those calls.", "ns")
STEP_FIRST = Attribute("codesign.steps.first", "int", "Number of the first step it was in.")
STEP_LAST = Attribute("codesign.steps.last", "int", "Number of the last step it was in.")
STEP_COUNT = Attribute("codesign.steps.count", "int", "Steps it was in.")
STEP_DEVICE = Attribute(
    "codesign.device.duration_ns",
    "int",
    "Time in which the device worked on those steps, any rank.",
    "ns",
)
STEP_NUMBER = Attribute("codesign.step.number", "int", "Steps of this EngineCore, from 1.")
STEP_TOKENS = Attribute("codesign.step.tokens", "int", "Tokens computed in this step.")
STEP_REQUESTS = Attribute("codesign.step.requests", "int", "Requests in this step.")
STEP_MEMBERS_KNOWN = Attribute(
    "codesign.step.members.known", "boolean", "False where records of its members were lost."
)
STEP_WAITING = Attribute("codesign.step.waiting", "int", "Requests left in the waiting queue.")
STEP_RUNNING = Attribute("codesign.step.running", "int", "Requests admitted.")
STEP_BLOCKED = Attribute(
    "codesign.step.blocked_by", "string", "Why the head of the waiting queue was left there."
)
STEP_BEFORE = Attribute(
    "codesign.step.before_ns",
    "int",
    "Since EngineCore last ended a `schedule()` or an `update_from_output()`.",
    "ns",
)
STEP_WAITED = Attribute(
    "codesign.step.waited_ns",
    "int",
    "Of it: EngineCore did nothing but wait for the result.",
    "ns",
)
STEP_PREEMPTED = Attribute("codesign.step.preempted", "int", "Requests preempted in it.")
STEP_DRAFTED = Attribute("codesign.step.tokens.drafted", "int", "Speculative tokens proposed.")
STEP_ACCEPTED = Attribute("codesign.step.tokens.accepted", "int", "Speculative tokens accepted.")
STEP_SKEW = Attribute(
    "codesign.step.skew_ns", "int", "How much later the last rank's forward ended.", "ns"
)
STEP_PHASE = Attribute("codesign.step.phase", "string", "On a link: `prefill` or `decode`.")
RANK = Attribute("codesign.worker.rank", "int", "Rank of the worker.")
EXECUTE_END = Attribute(
    "codesign.execute.end_ns", "int", "`execute_model()` returned, after the span's start.", "ns"
)
DEVICE_START = Attribute(
    "codesign.device.start_ns", "int", "The device began, after the span's start.", "ns"
)
DEVICE_END = Attribute(
    "codesign.device.end_ns", "int", "The device ended, after the span's start.", "ns"
)
DEVICE_FORWARD_START = Attribute(
    "codesign.device.forward.start_ns", "int", "The forward alone, after the span's start.", "ns"
)
DEVICE_FORWARD_END = Attribute(
    "codesign.device.forward.end_ns", "int", "The forward alone, after the span's start.", "ns"
)
DEVICE_DRAFT_START = Attribute(
    "codesign.device.draft.start_ns", "int", "The drafter began, after the span's start.", "ns"
)
DEVICE_DRAFT_END = Attribute(
    "codesign.device.draft.end_ns", "int", "The drafter ended, after the span's start.", "ns"
)
DEVICE_SOURCE = Attribute(
    "codesign.device.source",
    "string",
    "`events`: time stamps of the device; `wall`: the host's time over the same stretch (CPU).",
)
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
MONOTONIC = Attribute(
    "codesign.monotonic_ns",
    "int",
    "The host's monotonic clock at this span's start: what times of different traces of one host "
    "are compared by.",
    "ns",
)
ENGINE_PID = Attribute("codesign.engine.pid", "int", "Process id of the EngineCore.")
PART_TIMES = tuple(
    Attribute(f"codesign.part.{part.value}_ns", "int", f"Wall time in {part.value}.", "ns")
    for part in Part
)
HOST_EXPOSED = Attribute(
    "codesign.host.exposed_ns", "int", "Host time that the request waited for.", "ns"
)
HOST_HIDDEN = Attribute(
    "codesign.host.hidden_ns",
    "int",
    "Host work for this request while the device worked for it.",
    "ns",
)
BOTTLENECK = Attribute("codesign.bottleneck", "string", "The largest part that can be avoided.")
LINK_REASON = Attribute("codesign.link", "string", "Why two traces are linked.")

EVENT_PREEMPTED = "codesign.preempted"
EVENT_TOKENS_LOST = Attribute(
    "codesign.tokens.lost", "int", "Computed tokens that a preemption threw away."
)

# --- spans --------------------------------------------------------------------------------
_PER_ENGINE_REQUEST = (REQUEST_ID, REQUEST_INDEX)
_STEPS = (ENGINE_PID, STEP_FIRST, STEP_LAST, STEP_COUNT, STEP_DEVICE)

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
        *_PER_ENGINE_REQUEST,
        DISPATCH_REGISTER,
        DISPATCH_CLIENT,
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
    (*_PER_ENGINE_REQUEST, ENGINE_PID, QUEUE_REASON, *QUEUE_REASON_TIMES),
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
        *_STEPS,
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
        *_STEPS,
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
    (*_PER_ENGINE_REQUEST, OUTCOME, RESPONSE_FINISH_REASONS, LINK_REASON, LOSSY, MONOTONIC),
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

# --- the step trace: one trace a step, its root linked to the requests in it ----------------
STEP = SpanKind(
    "engine.step",
    Service.ENGINE,
    "entry of `schedule()`",
    "return of `update_from_output()`",
    (
        MONOTONIC,
        ENGINE_PID,
        STEP_NUMBER,
        STEP_TOKENS,
        STEP_REQUESTS,
        STEP_MEMBERS_KNOWN,
        STEP_WAITING,
        STEP_RUNNING,
        STEP_BLOCKED,
        STEP_BEFORE,
        STEP_PREEMPTED,
        STEP_DRAFTED,
        STEP_ACCEPTED,
        STEP_SKEW,
    ),
)
STEP_LINK = (REQUEST_ID, STEP_TOKENS, STEP_PHASE)
"""Attributes of the links from `engine.step` to the requests in it."""
SCHEDULE = SpanKind("schedule", Service.ENGINE, "entry of `schedule()`", "its return")
STEP_ALLOCATE = SpanKind(
    "kv.allocate",
    Service.ENGINE,
    "first block allocation of the step",
    "end of the last one",
    (CALLS, BUSY),
    aggregate=True,
)
EXECUTE = SpanKind(
    "execute",
    Service.ENGINE,
    "return of `schedule()`",
    "the result is taken back",
    (STEP_WAITED,),
)
WORKER_PREPARE = SpanKind(
    "worker.prepare",
    Service.WORKER,
    "`execute_model()` is entered",
    "the model's forward is called",
    (RANK,),
)
WORKER_FORWARD = SpanKind(
    "worker.forward",
    Service.WORKER,
    "the model's forward is called",
    "its return (on a GPU: all of it is launched)",
    (
        RANK,
        EXECUTE_END,
        DEVICE_SOURCE,
        DEVICE_START,
        DEVICE_END,
        DEVICE_FORWARD_START,
        DEVICE_FORWARD_END,
    ),
)
WORKER_SAMPLE = SpanKind(
    "worker.sample",
    Service.WORKER,
    "`sample_tokens()` is entered",
    "its return",
    (RANK, DEVICE_SOURCE, DEVICE_START, DEVICE_END, DEVICE_DRAFT_START, DEVICE_DRAFT_END),
)
UPDATE = SpanKind("update", Service.ENGINE, "entry of `update_from_output()`", "its return")

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
STEP_SPANS: tuple[SpanKind, ...] = (
    STEP,
    SCHEDULE,
    STEP_ALLOCATE,
    EXECUTE,
    WORKER_PREPARE,
    WORKER_FORWARD,
    WORKER_SAMPLE,
    UPDATE,
)
SPAN_BY_NAME = {span.name: span for span in SPANS}

# --- series: sampled once a second unless said otherwise ------------------------------------
PROCESS_PID = Attribute("process.pid", "int", "Process id.")
CONTEXT_SWITCH_TYPE = Attribute(
    "process.context_switch.type", "string", "`voluntary` or `involuntary`."
)
THREAD_ID = Attribute("thread.id", "int", "Thread id in the kernel.")
THREAD_NAME = Attribute("thread.name", "string", "The thread's name in the kernel.")
HW_ID = Attribute("hw.id", "string", "UUID of the GPU.")
HW_NAME = Attribute("hw.name", "string", "What its driver calls it.")
HW_TYPE = Attribute("hw.type", "string", "Always `gpu`.")
HW_VENDOR = Attribute("hw.vendor", "string", "`NVIDIA` or `AMD`.")
HW_GPU_TASK = Attribute("hw.gpu.task", "string", "Always `general`: no encoders and decoders.")
GPU_INDEX = Attribute("codesign.gpu.index", "int", "The driver's number of it on this host.")
PROCESS_ROLE = Attribute(
    "codesign.process.role",
    "string",
    "`api_server`, `engine_core`, `worker`, or several with `+`.",
)
STATISTIC = Attribute("codesign.statistic", "string", "`mean` or `max` of the last second.")

_GPU = (HW_ID, HW_NAME, HW_TYPE, HW_VENDOR, GPU_INDEX)
_PROCESS = (PROCESS_PID, PROCESS_ROLE)
_THREAD = (*_PROCESS, THREAD_ID, THREAD_NAME)

GPU_UTILIZATION = Series(
    "hw.gpu.utilization",
    "1",
    "Share of the driver's last sampling period in which a kernel ran; every 100 ms.",
    (*_GPU, HW_GPU_TASK),
)
GPU_MEMORY_USAGE = Series(
    "hw.gpu.memory.usage", "By", "Memory in use, by anybody; every 100 ms.", _GPU
)
GPU_MEMORY_LIMIT = Series("hw.gpu.memory.limit", "By", "Memory it has; once a minute.", _GPU)
HW_POWER = Series("hw.power", "W", "Power it draws; every 100 ms.", _GPU)
HW_TEMPERATURE = Series(
    "hw.temperature", "Cel", "Of the die (AMD: its hottest spot); every 100 ms.", _GPU
)
PROCESS_CPU = Series(
    "codesign.process.cpu",
    "1",
    "CPU time of its threads, in cores: 2 are two cores all the time.",
    _PROCESS,
)
PROCESS_RUN_QUEUE_WAIT = Series(
    "codesign.process.run_queue_wait",
    "1",
    "Time in which its threads could have run and had no CPU, summed over the threads.",
    _PROCESS,
)
PROCESS_CONTEXT_SWITCHES = Series(
    "codesign.process.context_switches",
    "{switch}/s",
    "Context switches of its threads.",
    (*_PROCESS, CONTEXT_SWITCH_TYPE),
)
THREAD_CPU = Series(
    "codesign.thread.cpu",
    "1",
    "CPU time as a share of a core. The five busiest threads of a process, and of these those "
    "that ran or waited for over 5 % of the second; they are in the process's sums, too.",
    _THREAD,
)
THREAD_RUN_QUEUE_WAIT = Series(
    "codesign.thread.run_queue_wait",
    "1",
    "Share of time in which it could have run and had no CPU; the same threads.",
    _THREAD,
)
THREAD_CONTEXT_SWITCHES = Series(
    "codesign.thread.context_switches",
    "{switch}/s",
    "Context switches; the same threads.",
    (*_THREAD, CONTEXT_SWITCH_TYPE),
)
EVENT_LOOP_LAG = Series(
    "codesign.event_loop.lag",
    "s",
    "How late the API server's event loop ran a timer of 100 ms; from its first traced request on.",
    (PROCESS_PID, STATISTIC),
)
GIL_CONTENTION = Series(
    "codesign.gil.contention",
    "1",
    "Share of its time that a thread which asks for the GIL every 10 ms waits for it: a third "
    "where one Python thread never lets go; with `CODESIGN_GIL=1` only.",
    (PROCESS_PID,),
)
WORKER_BUSY = Series(
    "codesign.worker.busy", "1", "Share of time inside the worker's calls.", (PROCESS_PID, RANK)
)
WORKER_STEPS = Series(
    "codesign.worker.steps", "{step}", "Steps since the last sample.", (PROCESS_PID, RANK)
)
WORKER_TOKENS = Series(
    "codesign.worker.tokens", "{token}", "Tokens of those steps.", (PROCESS_PID, RANK)
)
EXPORTER_CPU_TIME = Series(
    "codesign.exporter.cpu_time", "s", "CPU time of the exporter since its start.", (PROCESS_PID,)
)

SERIES: tuple[Series, ...] = (
    GPU_UTILIZATION,
    GPU_MEMORY_USAGE,
    GPU_MEMORY_LIMIT,
    HW_POWER,
    HW_TEMPERATURE,
    PROCESS_CPU,
    PROCESS_RUN_QUEUE_WAIT,
    PROCESS_CONTEXT_SWITCHES,
    THREAD_CPU,
    THREAD_RUN_QUEUE_WAIT,
    THREAD_CONTEXT_SWITCHES,
    EVENT_LOOP_LAG,
    GIL_CONTENTION,
    WORKER_BUSY,
    WORKER_STEPS,
    WORKER_TOKENS,
    EXPORTER_CPU_TIME,
)

DEFAULT_SERVICE_NAME = "vllm"
SCOPE_NAME = "vllm_codesign"
MAX_STRING_BYTES = 2048  # Tempo cuts attribute values there
MAX_EVENTS = 128  # the OpenTelemetry SDK's default limit per span
