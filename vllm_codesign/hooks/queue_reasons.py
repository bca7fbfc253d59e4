"""Why requests stay in the waiting queue, inferred after each `schedule()`.

vLLM does not store the reason. What stopped the head stops all behind it, so one record per
change of the head or of its reason says it for everyone; only requests that the scheduler
passes over (waiting for KV, a grammar, a LoRA slot) have reasons of their own.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from vllm_codesign.hooks.engine_state import ENGINE, NUMBER_OF
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind


def note_queue(now: int, result: Any, scheduler: Any) -> int:
    """Record what changed about the waiting queue since the last step.

    Returns the number of the reason that holds its head, 0 where none waits.
    """
    waiting = scheduler.waiting
    # 0.32 keeps those passed over in the queue and in a set, 0.19 in a queue of their own.
    passed_over = getattr(scheduler, "deferred_waiting", None)
    if passed_over is None:
        passed_over = getattr(scheduler, "skipped_waiting", ())
    if passed_over or ENGINE.deferred:
        _note_deferred(now, passed_over, scheduler)
    head = _head(waiting, passed_over) if waiting else None
    if head is None:
        if ENGINE.head[0]:
            ENGINE.head = (0, "")
            active.emit(Kind.ENG_HEAD, 0, now)
        return 0
    reason = NUMBER_OF[_reason(head, result, scheduler)]
    if ENGINE.head != (reason, head.request_id):
        ENGINE.head = (reason, head.request_id)
        state = ENGINE.requests.get(head.request_id)
        active.emit(Kind.ENG_HEAD, state.key if state else 0, now, 0, 0, 0, 0, reason)
    return reason


def _head(waiting: Any, passed_over: Any) -> Any:
    """First request of the queue that is not passed over."""
    head = waiting.peek_request()
    if head not in passed_over or not isinstance(waiting, deque):
        return head  # a priority queue cannot be looked through without sorting it
    return next((request for request in waiting if request not in passed_over), None)


def _reason(head: Any, result: Any, scheduler: Any) -> str:
    """In the order in which schedule() gives up."""
    if ENGINE.preempted_in_step:
        return "preemption"
    pause = getattr(scheduler, "_pause_state", None)
    if pause is not None and pause.name != "UNPAUSED":
        return "paused"
    if ENGINE.allocation_failed:
        return "no_free_blocks"
    if len(scheduler.running) >= scheduler.max_num_running_reqs:
        return "no_slot"
    if result.total_num_scheduled_tokens >= scheduler.max_num_scheduled_tokens:
        return "token_budget"
    if head.has_encoder_inputs:
        return "encoder_budget"
    return "other"


def _note_deferred(now: int, passed_over: Any, scheduler: Any) -> None:
    still = set()
    for request in passed_over:
        state = ENGINE.requests.get(request.request_id)
        if state is None:
            continue
        still.add(request.request_id)
        reason = NUMBER_OF[_own_reason(request, scheduler)]
        if state.deferred != reason:
            state.deferred = reason
            ENGINE.deferred[request.request_id] = state
            active.emit(Kind.ENG_DEFERRED, state.key, now, 0, 0, 0, 0, reason)
    for request_id in [r for r in ENGINE.deferred if r not in still]:
        state = ENGINE.deferred.pop(request_id)
        state.deferred = 0
        active.emit(Kind.ENG_DEFERRED, state.key, now)


def _own_reason(request: Any, scheduler: Any) -> str:
    status = request.status.name
    if status == "WAITING_FOR_REMOTE_KVS":
        return "kv_load"
    if status in ("WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR", "WAITING_FOR_FSM"):
        return "grammar"
    if request.lora_request is not None and getattr(scheduler, "lora_config", None):
        return "lora_limit"
    if getattr(scheduler, "connector", None) is not None:
        return "kv_lookup"
    return "other"
