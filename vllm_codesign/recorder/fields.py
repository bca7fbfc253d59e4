"""What the numbers of each kind of record are called, for `codesign dump`.

The same as the docstrings beside the kinds in `layout`, as data: name, place, meaning. A
place is a slot of the record (`t0`, `t1`, `a`, `b`, `c`, `s`) or some of its bits: `a>>32`
without the lowest 32, `a&32` the lowest 32 alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record


class As(Enum):
    """How a number is to be read."""

    COUNT = auto()
    TIME = auto()  # of the host's monotonic clock, in nanoseconds; 0 for never
    LENGTH = auto()  # nanoseconds
    ID = auto()  # 64 bits, hexadecimal
    DOUBLE = auto()  # bits of a double; -1 for none
    FLAG = auto()
    ROUTE = auto()  # number in layout.ROUTES
    LEVEL = auto()
    ENDING = auto()
    JOB = auto()
    WORK = auto()
    CALL = auto()
    DONE = auto()
    REASON = auto()  # number in layout.REASON_NUMBERS, plus one; 0 for none
    FINISH = auto()  # vllm.v1.engine.FinishReason, plus one; 0 for none
    FIELD = auto()


class Part(NamedTuple):
    """One number of a record."""

    name: str
    place: str
    meaning: As = As.COUNT

    def of(self, record: Record) -> int:
        """This number of `record`."""
        slot, shift, rest = self.place.partition(">>")
        if shift:
            return int(getattr(record, slot)) >> int(rest)
        slot, mask, rest = self.place.partition("&")
        value = int(getattr(record, slot))
        return value & (1 << int(rest)) - 1 if mask else value


def _p(*parts: tuple[str, str] | tuple[str, str, As]) -> tuple[Part, ...]:
    return tuple(Part(*part) for part in parts)


PARTS: Mapping[Kind, tuple[Part, ...]] = {
    Kind.VOID: (),
    Kind.ROOT_BEGIN: _p(
        ("first_byte", "t0", As.TIME),
        ("entered", "t1", As.TIME),
        ("route", "s", As.ROUTE),
        ("level", "c", As.LEVEL),
        ("announced_bytes", "a"),
    ),
    Kind.ROOT_PARENT: _p(
        ("trace_high", "t0", As.ID),
        ("trace_low", "t1", As.ID),
        ("span", "a", As.ID),
        ("parent", "b", As.ID),
        ("trace_flags", "c"),
        ("from_caller", "s", As.FLAG),
    ),
    Kind.ROOT_RECEIVED: _p(
        ("last_byte", "t0", As.TIME), ("endpoint", "t1", As.TIME), ("body_bytes", "a")
    ),
    Kind.ROOT_PARAMS: _p(
        ("max_tokens", "t0"),
        ("n", "t1"),
        ("temperature", "a", As.DOUBLE),
        ("top_p", "b", As.DOUBLE),
        ("stream", "s", As.FLAG),
    ),
    Kind.ROOT_STREAM: _p(
        ("headers", "t0", As.TIME),
        ("last_byte", "t1", As.TIME),
        ("in_send", "a", As.LENGTH),
        ("bytes", "b"),
        ("sends", "c"),
    ),
    Kind.ROOT_END: _p(
        ("end", "t0", As.TIME),
        ("first_chunk", "t1", As.TIME),
        ("status", "a"),
        ("first_send", "b", As.LENGTH),
        ("ending", "s", As.ENDING),
    ),
    Kind.JOB: _p(
        ("queued", "t0", As.TIME),
        ("begins", "t1", As.TIME),
        ("ends", "a", As.TIME),
        ("job", "s", As.JOB),
        ("tokens", "b"),
        ("pool_size", "c>>16"),
        ("jobs_ahead", "c&16"),
    ),
    Kind.JOB_BATCH: _p(("begins", "t0", As.TIME), ("ends", "t1", As.TIME), ("prompts", "a")),
    Kind.RESUMED: _p(("rendered", "t0", As.TIME), ("tokenized", "t1", As.TIME)),
    Kind.TAKEN: _p(("taken", "t0", As.TIME)),
    Kind.LOOP_LAG: _p(("due", "t0", As.TIME), ("ran", "t1", As.TIME)),
    Kind.REQ: _p(
        ("dispatched", "t0", As.TIME),
        ("registered", "t1", As.TIME),
        ("root", "a", As.ID),
        ("process_inputs", "b", As.LENGTH),
        ("index", "s"),
        ("prompt_tokens", "c"),
    ),
    Kind.REQ_SEND: _p(("begins", "t0", As.TIME), ("sent", "t1", As.TIME)),
    Kind.REQ_OUT: _p(
        ("first_token", "t0", As.TIME),
        ("last_token", "t1", As.TIME),
        ("outputs", "a"),
        ("tokens", "b"),
        ("finish", "s", As.FINISH),
    ),
    Kind.REQ_RETURN: _p(
        ("decoded", "t0", As.TIME),
        ("taken_up", "t1", As.TIME),
        ("processed", "a", As.TIME),
        ("returns", "b", As.LENGTH),
        ("outputs", "c"),
    ),
    Kind.REQ_DETOKENIZE: _p(
        ("first_call", "t0", As.TIME),
        ("last_end", "t1", As.TIME),
        ("inside", "a", As.LENGTH),
        ("first_length", "b", As.LENGTH),
        ("calls", "c"),
    ),
    Kind.REQ_FAILED: _p(("failed", "t0", As.TIME)),
    Kind.ENG_PREPROCESS: _p(("begins", "t0", As.TIME), ("ends", "t1", As.TIME)),
    Kind.ENG_QUEUED: _p(
        ("queued", "t0", As.TIME),
        ("number", "t1"),
        ("prompt_tokens", "a"),
        ("waiting", "b"),
        ("running", "c"),
    ),
    Kind.ENG_SCHEDULED: _p(
        ("schedule", "t0", As.TIME),
        ("scheduled", "t1", As.TIME),
        ("tokens_hit_hbm", "a"),
        ("tokens_hit_external", "b"),
        ("resumed", "s", As.FLAG),
    ),
    Kind.ENG_LOOKUP: _p(
        ("begins", "t0", As.TIME),
        ("ends", "t1", As.TIME),
        ("tokens_asked", "a>>32"),
        ("tokens_hit", "a&32"),
        ("all_tries", "b", As.LENGTH),
        ("tries", "c"),
    ),
    Kind.ENG_ALLOCATE: _p(
        ("begins", "t0", As.TIME),
        ("ends", "t1", As.TIME),
        ("blocks", "a>>32"),
        ("evicted", "a&32"),
        ("all_tries", "b", As.LENGTH),
        ("tries", "c"),
    ),
    Kind.ENG_PREEMPTED: _p(("preempted", "t0", As.TIME), ("tokens_lost", "a")),
    Kind.ENG_FINISHED: _p(
        ("freed", "t0", As.TIME),
        ("prefill_chunks", "t1"),
        ("decode_steps", "a"),
        ("batch_sum", "b"),
        ("preemptions", "c"),
        ("finish", "s", As.FINISH),
    ),
    Kind.ENG_DECODE_KV: _p(
        ("inside", "t0", As.LENGTH), ("calls", "t1"), ("blocks", "a"), ("evicted", "b")
    ),
    Kind.ENG_HEAD: _p(("since", "t0", As.TIME), ("reason", "s", As.REASON)),
    Kind.ENG_DEFERRED: _p(("since", "t0", As.TIME), ("reason", "s", As.REASON)),
    Kind.KV_LOOKUP: _p(
        ("begins", "t0", As.TIME),
        ("ends", "t1", As.TIME),
        ("asked", "a>>32"),
        ("hit", "a&32"),
        ("in_all_calls", "b", As.LENGTH),
        ("calls", "c"),
        ("connector", "s"),
    ),
    Kind.KV_LOAD: _p(
        ("told", "t0", As.TIME),
        ("scheduled", "t1", As.TIME),
        ("tokens", "a>>32"),
        ("blocks", "a&32"),
        ("step", "b", As.ID),
        ("block_bytes", "c"),
        ("connector", "s"),
    ),
    Kind.KV_LOADED: _p(("learned", "t0", As.TIME), ("asked_before", "t1", As.TIME)),
    Kind.KV_FAILED: _p(("learned", "t0", As.TIME), ("tokens", "a")),
    Kind.KV_STORE: _p(
        ("first_told", "t0", As.TIME),
        ("last_told", "t1", As.TIME),
        ("tokens", "a>>32"),
        ("blocks", "a&32"),
        ("step", "b", As.ID),
        ("block_bytes", "c"),
        ("connector", "s"),
    ),
    Kind.KV_SENT: _p(("learned", "t0", As.TIME), ("asked_before", "t1", As.TIME)),
    Kind.ENG_BLOCKS: _p(
        ("admitted", "t0", As.TIME),
        ("idle_since", "t1", As.TIME),
        ("computed_again", "a>>32"),
        ("found", "a&32"),
        ("block_bytes", "b"),
    ),
    Kind.KV_EVICTED: _p(
        ("taken", "t0", As.TIME),
        ("owner_freed", "t1", As.TIME),
        ("owner", "a", As.ID),
        ("blocks", "b"),
    ),
    Kind.ENG_TRIED: _p(("tokens_asked", "a"), ("tokens_hit", "b")),
    Kind.KV_ORDERED: _p(("told", "t0", As.TIME), ("step", "b", As.ID), ("connector", "s")),
    Kind.STEP: _p(
        ("schedule", "t0", As.TIME),
        ("scheduled", "t1", As.TIME),
        ("tokens", "a>>32"),
        ("requests", "a&32"),
        ("since_last_call", "b", As.LENGTH),
        ("allocations", "c"),
        ("head_waits_for", "s", As.REASON),
    ),
    Kind.STEP_STATE: _p(
        ("first_allocation", "t0", As.TIME),
        ("last_allocation", "t1", As.TIME),
        ("waiting", "s"),
        ("running", "a>>32"),
        ("in_allocations", "a&32", As.LENGTH),
        ("members_of", "b", As.ID),
        ("preempted", "c>>16"),
        ("pieces", "c&16"),
    ),
    Kind.STEP_UPDATE: _p(
        ("update", "t0", As.TIME),
        ("updated", "t1", As.TIME),
        ("drafted", "a>>32"),
        ("accepted", "a&32"),
        ("waited", "b", As.LENGTH),
        ("unfinished", "c"),
    ),
    Kind.WORKER_EXECUTE: _p(
        ("begins", "t0", As.TIME),
        ("ends", "t1", As.TIME),
        ("forward", "a", As.TIME),
        ("forward_end", "b", As.TIME),
        ("tokens", "c"),
        ("rank", "s&15"),
        ("device_clock", "s>>15", As.FLAG),
    ),
    Kind.WORKER_SAMPLE: _p(("begins", "t0", As.TIME), ("ends", "t1", As.TIME), ("rank", "s")),
    Kind.WORKER_DEVICE: _p(
        ("begins", "t0", As.TIME),
        ("ends", "t1", As.TIME),
        ("forward", "a", As.TIME),
        ("forward_end", "b", As.TIME),
        ("work", "c", As.WORK),
        ("rank", "s"),
    ),
    Kind.WORKER_KV: _p(
        ("begins", "t0", As.TIME),
        ("ends", "t1", As.TIME),
        ("layer_load", "a", As.LENGTH),
        ("layer_save", "b", As.LENGTH),
        ("layer_calls", "c>>8"),
        ("call", "c&8", As.CALL),
        ("rank", "s"),
    ),
    Kind.WORKER_KV_DONE: _p(
        ("learned", "t0", As.TIME),
        ("asked_before", "t1", As.TIME),
        ("what", "a", As.DONE),
        ("rank", "s"),
    ),
    Kind.WORKER_KV_STORED: _p(
        ("ordered", "t0", As.TIME),
        ("learned", "t1", As.TIME),
        ("tokens", "a>>32"),
        ("stores", "a&32"),
        ("asked_before", "b", As.TIME),
        ("rank", "s"),
    ),
    Kind.GIL: _p(
        ("from", "t0", As.TIME), ("to", "t1", As.TIME), ("contended", "a"), ("looks", "b")
    ),
    Kind.TEXT: _p(("field", "s", As.FIELD), ("piece", "c>>16"), ("pieces", "c&16")),
    Kind.KV_NAME: _p(("connector", "s")),
    Kind.ITL: _p(("piece", "c>>8"), ("intervals", "c&8")),
    Kind.STEP_DECODES: _p(("requests", "s"), ("piece", "c")),
    Kind.STEP_CHUNKS: _p(("requests", "s"), ("piece", "c")),
}
