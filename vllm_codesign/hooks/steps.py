"""The step timeline, EngineCore's side: what each step held, when it was planned and taken back.

A step's number is decided in `schedule()` and travels on the object that it returns, which
reaches the workers and comes back to `update_from_output()`: with asynchronous scheduling or
a batch queue a result lands on its own step, however late it comes. Whether a step is
recorded is decided there too, once for all processes.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from typing import Any

from vllm_codesign.hooks.engine_state import ENGINE, Scheduled
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import DECODING, TEXT_BYTES, Kind
from vllm_codesign.settings import LEVELS

STEP_LEVEL = LEVELS.index("step")
ATTRIBUTE = "codesign_step"
"""On vLLM's `SchedulerOutput`: the key of the step, where it is recorded."""

_SNAPSHOT_EVERY = 256
"""Steps after which the members are told again, though they are the same: a record may be lost."""

_U32_MAX = 0xFFFFFFFF
_U16_MAX = 0xFFFF


def note_step(
    t0: int, t1: int, result: Any, scheduler: Any, computing: set[str], reason: int
) -> None:
    """Record the step that `schedule()` has planned.

    `computing`: those of its requests that still compute their prompts; `reason`: the
    number of why the head of the waiting queue was left there.
    """
    in_step = result.num_scheduled_tokens
    number = ENGINE.step_number = ENGINE.step_number + 1
    key = os.getpid() << 40 | number
    setattr(result, ATTRIBUTE, key)
    tokens = result.total_num_scheduled_tokens
    members_of, pieces = _members(key, number, in_step, tokens, computing)
    emit = active.emit
    emit(
        Kind.STEP,
        key,
        t0,
        t1,
        tokens << 32 | len(in_step),
        t0 - ENGINE.event_at if ENGINE.event_at else 0,
        ENGINE.allocations,
        reason,
    )
    emit(
        Kind.STEP_STATE,
        key,
        ENGINE.allocated_from,
        ENGINE.allocated_to,
        len(scheduler.running) << 32 | min(ENGINE.allocation_ns, _U32_MAX),
        members_of,
        min(ENGINE.preempted_in_step, _U16_MAX) << 16 | pieces,
        min(len(scheduler.waiting), _U16_MAX),
    )


def _members(
    key: int, number: int, in_step: dict[str, int], tokens: int, computing: set[str]
) -> tuple[int, int]:
    """Tell who is in the step; returns the key of the step where it was told, and in how many
    pieces, if just now.

    Most steps hold the same requests as the one before, one token each, and then say so.
    """
    steady = not computing and tokens == len(in_step)
    if (
        steady
        and number < ENGINE.told_number + _SNAPSHOT_EVERY
        and in_step.keys() == ENGINE.told_members
    ):
        return ENGINE.told_key, 0
    find: Callable[[str], Scheduled | None] = ENGINE.requests.get
    # A request may be unknown: it came in while we were dormant.
    decodes: list[int] = []
    chunks: list[int] = []
    if steady:
        decodes = [state.number for state in map(find, in_step) if state is not None]
    else:
        for request_id, count in in_step.items():
            state = find(request_id)
            if state is None:
                continue
            if request_id in computing:
                chunks += (state.number, min(count, DECODING - 1))
            elif count == 1:
                decodes.append(state.number)
            else:
                chunks += (state.number, DECODING | min(count, DECODING - 1))
    pieces = _tell(Kind.STEP_DECODES, key, decodes, 8, 0)
    pieces = _tell(Kind.STEP_CHUNKS, key, chunks, 4, pieces)
    # What the next step is compared with: only a step of single tokens can be repeated.
    ENGINE.told_members = set(in_step) if steady else None
    ENGINE.told_key, ENGINE.told_number = key, number
    return key, pieces


def _tell(kind: Kind, key: int, numbers: list[int], each: int, piece: int) -> int:
    """Write `each` members a record, from this piece on; returns the number after the last.

    With 256 requests these are 32 records whenever one comes or goes: all numbers are packed
    at once.
    """
    raw = array("I", numbers).tobytes()
    members = len(raw) * each // TEXT_BYTES
    emit = active.emit_payload
    for begin in range(0, len(raw), TEXT_BYTES):
        emit(kind, key, min(each, members), piece, raw[begin : begin + TEXT_BYTES])
        members -= each
        piece += 1
    return piece


def note_update(t0: int, t1: int, output: Any, runner_output: Any, scheduler: Any) -> None:
    """The result of a recorded step was dealt with."""
    waited = t0 - ENGINE.event_at if ENGINE.event_at else 0
    ENGINE.event_at = t1
    key = getattr(output, ATTRIBUTE, 0)
    if not key:
        return
    drafted = accepted = 0
    if proposed := output.scheduled_spec_decode_tokens:
        drafted, accepted = _speculated(proposed, runner_output)
    unfinished = len(scheduler.running) + len(scheduler.waiting)
    active.emit(
        Kind.STEP_UPDATE, key, t0, t1, drafted << 32 | accepted, waited, min(unfinished, _U32_MAX)
    )


def _speculated(proposed: dict[str, list[int]], runner_output: Any) -> tuple[int, int]:
    """Tokens drafted, and those of them that were accepted."""
    sampled, index_of = runner_output.sampled_token_ids, runner_output.req_id_to_index
    drafted = accepted = 0
    for request_id, tokens in proposed.items():
        drafted += len(tokens)
        index = index_of.get(request_id)
        if index is not None and sampled and len(sampled[index]):
            accepted += len(sampled[index]) - 1  # the last one is the model's own
    return drafted, accepted
