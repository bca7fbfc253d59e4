"""What the API server's hooks remember between two calls of the same request."""

from __future__ import annotations

import itertools
import os
import random
import re
from contextvars import ContextVar

from vllm_codesign import settings
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind

# Lower case only: the specification, and OpenTelemetry's own parser, refuse the rest.
_TRACEPARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)

_numbers = itertools.count(1)
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


class Root:
    """One HTTP request that generates."""

    __slots__ = (
        "body_bytes",
        "bytes_out",
        "calls",
        "complete",
        "disconnected_at",
        "ended",
        "entered_at",
        "first_body_at",
        "first_send_ns",
        "flags",
        "has_parent",
        "headers_at",
        "key",
        "last_in",
        "last_out",
        "parent_id",
        "send_ns",
        "span_id",
        "status",
        "trace_id",
    )

    def __init__(self) -> None:
        self.key = os.getpid() << 40 | next(_numbers)
        self.trace_id = 0
        self.span_id = _random.getrandbits(64) or 1
        self.parent_id = 0
        self.flags = 1
        self.has_parent = False
        self.body_bytes = self.last_in = self.entered_at = 0
        self.headers_at = self.first_body_at = self.last_out = 0
        self.send_ns = self.first_send_ns = self.bytes_out = self.calls = self.status = 0
        self.disconnected_at = 0
        self.complete = self.ended = False

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


class EngineRequest:
    """One engine request, as the API server (or an offline `LLM`) sees it."""

    __slots__ = (
        "detok_calls",
        "detok_end",
        "detok_first_ns",
        "detok_ns",
        "detok_start",
        "detokenizer_id",
        "key",
        "outputs",
        "return_ns",
        "stamps",
        "tokens",
    )

    def __init__(self, key: int) -> None:
        self.key = key
        self.outputs = self.tokens = self.return_ns = 0
        self.detok_start = self.detok_end = self.detok_ns = 0
        self.detok_first_ns = self.detok_calls = self.detokenizer_id = 0
        self.stamps: list[int] = []
        """When each output with tokens left the engine."""


CURRENT: ContextVar[Root | None] = ContextVar("codesign_root", default=None)
"""The HTTP request that the running task works for."""

UNTRACED = Root()
"""Stands in `CURRENT` for a request that came in while we were dormant."""
UNTRACED.ended = True

DISPATCHED_AT: ContextVar[int] = ContextVar("codesign_dispatched_at", default=0)
PROCESS_NS: ContextVar[int] = ContextVar("codesign_process_ns", default=0)

ROOTS: set[Root] = set()
"""HTTP requests whose response is not over."""

REQUESTS: dict[str, EngineRequest] = {}
"""By vLLM's internal request id; an entry lives from `add_request` to the last output."""

BY_DETOKENIZER: dict[int, EngineRequest] = {}
DECODED_AT: dict[float, int] = {}
"""When an EngineCoreOutputs was decoded, by its time stamp."""


def current() -> Root | None:
    """The request this task works for, unless its response is over."""
    root = CURRENT.get()
    return None if root is None or root.ended else root


def finish(request_id: str, request: EngineRequest, reason: int | None) -> None:
    """Write down what was gathered over the stream, and forget the request."""
    del REQUESTS[request_id]
    BY_DETOKENIZER.pop(request.detokenizer_id, None)
    emit, stamps = active.emit, request.stamps
    emit(
        Kind.REQ_OUT,
        request.key,
        stamps[0] if stamps else 0,
        stamps[-1] if stamps else 0,
        request.outputs,
        request.tokens,
        0,
        0 if reason is None else reason + 1,
    )
    if request.detok_calls:
        emit(
            Kind.REQ_DETOKENIZE,
            request.key,
            request.detok_start,
            request.detok_end,
            request.detok_ns,
            request.detok_first_ns,
            request.detok_calls,
        )
    if len(stamps) > 1:
        gaps_us = [(later - earlier) // 1000 for earlier, later in itertools.pairwise(stamps)]
        active.emit_intervals(request.key, gaps_us)


def forget_all() -> None:
    """In a forked child: the parent's requests are not ours."""
    for store in (ROOTS, REQUESTS, BY_DETOKENIZER, DECODED_AT):
        store.clear()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=forget_all)
