"""One HTTP request in the API server: its trace context, what is gathered on it, and its records.

Records are written in bursts (when it begins, when its first engine request is registered, when
it ends), not where each fact turns up: between two hooks the event loop runs thousands of other
lines, and the first record after them costs several times as much as the ones behind it
(`benchmarks/in_place.py`). What a killed API server had not told yet is lost: of a request that
was still in the frontend its body, parameters and model; of one in the engine when it was sent.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import struct
from collections.abc import Mapping
from typing import Any

from vllm_codesign import settings
from vllm_codesign.hooks.wrap import swallow
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Ending, Field, Kind

# Lower case only: the specification, and OpenTelemetry's own parser, refuse the rest.
_TRACEPARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)

_DOUBLE = struct.Struct("<d")
_Q = struct.Struct("<q")
_numbers = itertools.count(1)
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


class Root:
    """One HTTP request that generates.

    Values to begin with stand on the class, so that making one stores two attributes and not
    thirty.
    """

    trace_id = parent_id = 0
    flags = 1
    has_parent = False
    body_bytes = last_in = entered_at = 0
    headers_at = first_body_at = last_out = 0
    send_ns = first_send_ns = bytes_out = calls = status = 0
    # Chunks in mid-stream; those that were timed, and how many more are passed on untimed.
    chunks = timed_chunks = timed_ns = untimed = 0
    disconnected_at = taken_at = 0
    complete = ended = told = False
    body: Mapping[str, Any] | None = None
    """The fields of the parsed body, until they are told."""
    resumed: list[tuple[int, int]] | None = None
    """When its prompts were encoded (begin, end), until that is told."""

    def __init__(self) -> None:
        self.key = os.getpid() << 40 | next(_numbers)
        self.span_id = _random.getrandbits(64) or 1

    def adopt(self, traceparent: bytes) -> None:
        """Take the caller's context (W3C Trace Context, version 00 and later ones)."""
        found = _TRACEPARENT.fullmatch(traceparent.strip(b" \t"))
        if found is None:
            return
        version, trace_id, parent_id, flags, more = found.groups()
        if version == b"ff" or (version == b"00" and more):
            return
        if int(trace_id, 16) and int(parent_id, 16):
            self.trace_id, self.parent_id = int(trace_id, 16), int(parent_id, 16)
            self.flags = int(flags, 16)
            self.has_parent = True

    def make_trace_id(self) -> None:
        self.trace_id = _random.getrandbits(128) or 1

    def traceparent(self) -> str:
        """The context that this request's own span hands on, with the sampler's decision."""
        by_parent, bound = settings.sampling()
        if self.has_parent and by_parent:
            sampled = self.flags & 1
        else:
            sampled = self.trace_id & 0xFFFFFFFFFFFFFFFF < bound
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{sampled:02x}"

    def tell(self) -> None:
        """Write down what is known by now and was not told yet."""
        emit, key = active.emit, self.key
        resumed, self.resumed = self.resumed, None
        for begun, encoded in resumed or ():
            emit(Kind.RESUMED, key, begun, encoded)
        if self.entered_at and not self.told:
            self.told = True
            emit(Kind.ROOT_RECEIVED, key, self.last_in, self.entered_at, self.body_bytes)
            fields, self.body = self.body, None
            if fields:
                _tell_parameters(key, fields)

    def tell_end(self, end: int, ending: int) -> None:
        """The response is over, at `end`: all that is left."""
        self.ended = True
        try:
            self.tell()
        except Exception:  # noqa: BLE001  # whatever it was, the request has ended
            swallow()
        emit, key = active.emit, self.key
        if not self.told:
            emit(Kind.ROOT_RECEIVED, key, self.last_in, 0, self.body_bytes)
        if self.taken_at:
            emit(Kind.TAKEN, key, self.taken_at)
        if self.headers_at:
            emit(
                Kind.ROOT_STREAM,
                key,
                self.headers_at,
                self.last_out,
                self.send_ns + self.timed_ns * self.chunks // max(self.timed_chunks, 1),
                self.bytes_out,
                self.calls + self.chunks,
            )
        if self.complete:
            ending |= Ending.COMPLETE
        if self.disconnected_at:
            ending |= Ending.DISCONNECTED
        emit(
            Kind.ROOT_END,
            key,
            end,
            self.first_body_at,
            self.status,
            self.first_send_ns,
            0,
            ending,
        )


def _tell_parameters(key: int, fields: Mapping[str, Any]) -> None:
    """What was asked for, from the fields of vLLM's request model.

    Not by attribute: pydantic warns of each deprecated field that is read (`max_tokens` of a
    chat completion), and a warning that nobody sees is not free.
    """
    limit = None
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        limit = fields.get(name)
        if isinstance(limit, int):
            break
    active.emit(
        Kind.ROOT_PARAMS,
        key,
        int64(limit, -1),
        int64(fields.get("n"), 1),
        _bits(fields.get("temperature")),
        _bits(fields.get("top_p")),
        0,
        1 if fields.get("stream") else 0,
    )
    model = fields.get("model")
    if isinstance(model, str):
        active.emit_string(key, Field.MODEL, model)


def int64(value: Any, otherwise: int) -> int:
    """The number, where it is one that a record can hold: clients send any."""
    return value if isinstance(value, int) and -(1 << 63) <= value < 1 << 63 else otherwise


def _bits(value: Any) -> int:
    """The bits of a double as a signed integer; -1 (a NaN) for none."""
    if not isinstance(value, int | float):
        return -1
    try:
        bits: int = _Q.unpack(_DOUBLE.pack(value))[0]
    except (OverflowError, struct.error):  # an integer that no double holds
        return -1
    return bits
