"""The recorder of this process: joined to a session, or dormant.

Hooks read `LEVEL.byte[0]` first and call `emit`. Until a session is joined the level is 0
and nothing is written; a process that only loads plugins and exits never has a ring.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from typing import Any

from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.ring import Emit, Ring
from vllm_codesign.recorder.session import C_LEVEL, Session
from vllm_codesign.semconv import MAX_STRING_BYTES

clock = time.monotonic_ns


class _Level:
    """Holder of the level byte: one attribute and one index away for every hook."""

    __slots__ = ("byte",)

    def __init__(self) -> None:
        self.byte: memoryview | bytes = b"\0"


def _nowhere(*_: Any, **__: Any) -> None:
    """Stands in for emit until there is a ring."""


LEVEL = _Level()
emit: Emit = _nowhere
_emit_text: Callable[[int, int, int, int, bytes], None] = _nowhere
_ring: Ring | None = None
session: Session | None = None
swallowed = 0
"""Exceptions of ours that were swallowed before there was a ring to count them in."""


def activate(joined: Session, role: str, ring_bytes: int) -> None:
    """Give this process a ring in the session. Raises OSError where there is no room."""
    global emit, _emit_text, _ring, session
    if _ring is not None:
        return
    room = joined.room(ring_bytes)
    if room < L.HEADER_BYTES + 256 * L.RECORD_BYTES:
        raise OSError(28, "the session's shared memory is used up")
    _ring = Ring(joined.folder / f"{role}-{os.getpid()}.ring", room)
    session = joined
    emit, _emit_text = _ring.emit, _ring.emit_text
    LEVEL.byte = memoryview(joined.control)[C_LEVEL : C_LEVEL + 1]


def deactivate() -> None:
    """Back to dormant: in a forked child, whose ring is its parent's, and in tests."""
    global emit, _emit_text, _ring, session
    LEVEL.byte = b"\0"
    emit = _emit_text = _nowhere
    _ring = session = None


def is_active() -> bool:
    return _ring is not None


def count_error() -> None:
    """An exception in one of our hooks was swallowed."""
    global swallowed
    if _ring is not None:
        _ring.count_error()
    else:
        swallowed += 1


def key_of(request_id: str) -> int:
    """64-bit key of a request id: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "little")


def emit_payload(kind: int, key: int, s: int, c: int, payload: bytes) -> None:
    """One text record of 32 bytes."""
    _emit_text(kind, key, s, c, payload)


def emit_string(key: int, field: int, text: str) -> None:
    """A string in as many text records as it takes, at most MAX_STRING_BYTES of it."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= L.TEXT_BYTES:
        _emit_text(L.Kind.TEXT, key, field, 1, raw)
        return
    if len(raw) > MAX_STRING_BYTES:
        # Between two characters: half of one would come back longer than it went in.
        raw = raw[:MAX_STRING_BYTES].decode("utf-8", "ignore").encode()
    pieces = range(0, max(len(raw), 1), L.TEXT_BYTES)
    for index, begin in enumerate(pieces):
        _emit_text(
            L.Kind.TEXT, key, field, index << 16 | len(pieces), raw[begin : begin + L.TEXT_BYTES]
        )


_EIGHT = struct.Struct("<8I")
_U32_MAX = 0xFFFFFFFF


def emit_intervals(key: int, microseconds: list[int]) -> None:
    """Inter-token times, eight to a record."""
    for index, begin in enumerate(range(0, len(microseconds), 8)):
        eight = microseconds[begin : begin + 8]
        count = len(eight)
        padding = [0] * (8 - count)
        try:
            payload = _EIGHT.pack(*eight, *padding)
        except struct.error:  # a request that slept for over an hour, or a clock that jumped
            payload = _EIGHT.pack(*(min(max(us, 0), _U32_MAX) for us in eight), *padding)
        _emit_text(L.Kind.ITL, key, 0, index << 8 | count, payload)


os.register_at_fork(after_in_child=deactivate)
