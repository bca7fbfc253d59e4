"""The step trace: one trace a step, its root linked to the requests in it."""

from __future__ import annotations

from vllm_codesign.semconv.attributes import BUSY, CALLS, ENGINE_PID, MONOTONIC, RANK, REQUEST_ID
from vllm_codesign.semconv.service import Service
from vllm_codesign.semconv.types import Attribute, SpanKind

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
    "Since EngineCore last ended a `schedule()` or an `update_from_output()`; of its first step "
    "since it took in a request.",
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
KV_LAYER_LOAD = Attribute(
    "codesign.kv.layer.load.duration_ns",
    "int",
    "Time in the connector's `wait_for_layer_load()`, all layers of the step.",
    "ns",
)
KV_LAYER_SAVE = Attribute(
    "codesign.kv.layer.save.duration_ns", "int", "The same in `save_kv_layer()`.", "ns"
)
WORKER_KV_LOAD = SpanKind(
    "worker.kv_load",
    Service.WORKER,
    "the connector's `start_load_kv()`",
    "its return",
    (RANK,),
)
WORKER_KV_SAVE = SpanKind(
    "worker.kv_save",
    Service.WORKER,
    "the connector's `wait_for_save()`",
    "its return",
    (RANK, KV_LAYER_LOAD, KV_LAYER_SAVE),
)
UPDATE = SpanKind("update", Service.ENGINE, "entry of `update_from_output()`", "its return")

STEP_SPANS: tuple[SpanKind, ...] = (
    STEP,
    SCHEDULE,
    STEP_ALLOCATE,
    EXECUTE,
    WORKER_PREPARE,
    WORKER_FORWARD,
    WORKER_SAMPLE,
    WORKER_KV_LOAD,
    WORKER_KV_SAVE,
    UPDATE,
)
