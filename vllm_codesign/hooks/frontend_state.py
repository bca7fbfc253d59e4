"""What the API server's hooks remember between two calls of the same request."""

from __future__ import annotations

import itertools
import os
from contextvars import ContextVar

from vllm_codesign.hooks.root import Root
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind


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
        "sent",
        "stamps",
        "tokens",
    )

    def __init__(self, key: int) -> None:
        self.key = key
        self.outputs = self.tokens = self.return_ns = 0
        self.detok_start = self.detok_end = self.detok_ns = 0
        self.detok_first_ns = self.detok_calls = self.detokenizer_id = 0
        self.sent: tuple[int, int] | None = None
        """When its message was encoded and handed to the socket (begin, end)."""
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
    if request.sent is not None:
        emit(Kind.REQ_SEND, request.key, *request.sent)
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
