"""Spans of EngineCore for one request: queue, KV cache, prefill and decode."""

from __future__ import annotations

from enum import StrEnum

from vllm_codesign.semconv.attributes import ENGINE_PID, PER_ENGINE_REQUEST, TOKENS
from vllm_codesign.semconv.service import Service
from vllm_codesign.semconv.types import Attribute, SpanKind


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


QUEUE_REASON = Attribute("codesign.queue.reason", "string", "The reason with the longest time.")
QUEUE_REASON_TIMES = tuple(
    Attribute(f"codesign.queue.{reason.value}_ns", "int", f"Time waiting: {reason.value}.", "ns")
    for reason in QueueReason
)
TRIES = Attribute("codesign.tries", "int", "Calls until the request was admitted.")
TRIES_DURATION = Attribute("codesign.tries.duration_ns", "int", "Time in all those calls.", "ns")
TRIES_TOKENS_ASKED = Attribute(
    "codesign.tries.tokens.asked", "int", "Tokens looked up, in all those calls together."
)
TRIES_TOKENS_HIT = Attribute(
    "codesign.tries.tokens.hit", "int", "Tokens found, in all those calls together."
)
STEP_FIRST = Attribute("codesign.steps.first", "int", "Number of the first step it was in.")
STEP_LAST = Attribute("codesign.steps.last", "int", "Number of the last step it was in.")
STEP_COUNT = Attribute("codesign.steps.count", "int", "Steps it was in.")
STEP_DEVICE = Attribute(
    "codesign.device.duration_ns",
    "int",
    "Time in which the device worked on those steps, any rank.",
    "ns",
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

EVENT_PREEMPTED = "codesign.preempted"
EVENT_TOKENS_LOST = Attribute(
    "codesign.tokens.lost", "int", "Computed tokens that a preemption threw away."
)

KV_TOKENS_AGAIN = Attribute(
    "codesign.kv.tokens.computed_again",
    "int",
    "Prompt tokens computed although they had been cached: their blocks, or blocks before them, "
    "were evicted.",
)
KV_REUSED_BYTES = Attribute(
    "codesign.kv.reused.bytes",
    "int",
    "Bytes, on one rank, of blocks that other requests had left in the prefix cache, that nobody "
    "held and this one found.",
    "By",
)
KV_REUSED_IDLE = Attribute(
    "codesign.kv.reused.idle_ns",
    "int",
    "How long these bytes had been held for nobody, in the mean over their blocks: since the last "
    "request that had a block was freed, or its blocks were sent.",
    "ns",
)
KV_REMOTE_REQUEST = Attribute(
    "codesign.kv.remote.request.id",
    "string",
    "The request on another server that computed its prompt: `codesign.request.id` there. Told by "
    "the caller, `remote_request_id` of `kv_transfer_params`.",
)
KV_REMOTE_ENGINE = Attribute(
    "codesign.kv.remote.engine.id",
    "string",
    "The engine it ran on, `remote_engine_id` of `kv_transfer_params`.",
)
KV_TRANSFER_ID = Attribute(
    "codesign.kv.transfer.id",
    "string",
    "The router's name for both halves, `transfer_id` of `kv_transfer_params`.",
)
EVENT_EVICTED = "codesign.kv.evicted"
EVICTED_BLOCKS = Attribute("codesign.kv.evicted.blocks", "int", "Cached blocks that it took.")
EVICTED_IDLE = Attribute(
    "codesign.kv.evicted.idle_ns",
    "int",
    "Time since their owner was freed; absent where it still ran.",
    "ns",
)
EVICTED_REQUEST = Attribute(
    "codesign.kv.evicted.request.id", "string", "The request that had cached or last found them."
)
EVICTED_SESSION = Attribute("codesign.kv.evicted.session.id", "string", "Its session.")
EVICTED = (EVICTED_BLOCKS, EVICTED_IDLE, EVICTED_REQUEST, EVICTED_SESSION)

_STEPS = (ENGINE_PID, STEP_FIRST, STEP_LAST, STEP_COUNT, STEP_DEVICE)

ENGINE_QUEUE = SpanKind(
    "engine.queue",
    Service.ENGINE,
    "in the scheduler's waiting queue",
    "entry of the `schedule()` call that admits it",
    (*PER_ENGINE_REQUEST, ENGINE_PID, QUEUE_REASON, *QUEUE_REASON_TIMES),
)
KV_PREFIX_LOOKUP = SpanKind(
    "kv.prefix_lookup",
    Service.ENGINE,
    "`get_computed_blocks()` of the step that admits it",
    "its return",
    (
        *PER_ENGINE_REQUEST,
        KV_TOKENS_ASKED,
        KV_TOKENS_HIT_HBM,
        TRIES,
        TRIES_DURATION,
        TRIES_TOKENS_ASKED,
        TRIES_TOKENS_HIT,
    ),
)
KV_ALLOCATE = SpanKind(
    "kv.allocate",
    Service.ENGINE,
    "`allocate_slots()` of the step that admits it",
    "its return",
    (*PER_ENGINE_REQUEST, KV_BLOCKS, KV_BLOCKS_EVICTED, TRIES, TRIES_DURATION),
)
PREFILL = SpanKind(
    "prefill",
    Service.ENGINE,
    "entry of the `schedule()` call that admits it",
    "first token: the time stamp on EngineCore's output",
    (
        *PER_ENGINE_REQUEST,
        *_STEPS,
        PREFILL_CHUNKS,
        PREFILL_COMPUTED,
        KV_TOKENS_HIT_HBM,
        KV_TOKENS_HIT_EXTERNAL,
        KV_TOKENS_AGAIN,
        KV_REUSED_BYTES,
        KV_REUSED_IDLE,
        KV_REMOTE_REQUEST,
        KV_REMOTE_ENGINE,
        KV_TRANSFER_ID,
        PREEMPTIONS,
    ),
)
DECODE = SpanKind(
    "decode",
    Service.ENGINE,
    "first token",
    "last token: the time stamp on EngineCore's last output",
    (
        *PER_ENGINE_REQUEST,
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
