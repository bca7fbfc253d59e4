"""One process's ring: records in, without locks and without ever waiting.

Several threads write: a record number comes from `itertools.count`, whose `__next__` is one
C call, and the record itself is one `pack_into`, which holds the GIL; so no two threads
share a slot. The reader lives in another process (`reader.py`).

When the reader falls behind, the oldest records are overwritten, and each is counted by its
kind. Finding that out costs a look at shared memory only once per `capacity` records, as
long as the reader keeps up.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.process import start_ticks

_U64 = struct.Struct("<Q")

Emit = Callable[..., None]
"""emit(kind, key, t0, t1=0, a=0, b=0, c=0, s=0)"""


class Ring:
    """The writing end. Creating one reserves all its pages, or raises OSError.

    Reserving matters: a write into a hole of a file on a full tmpfs is a SIGBUS, which
    would end vLLM.
    """

    def __init__(self, path: Path, size: int) -> None:
        capacity = max(size - L.HEADER_BYTES, L.RECORD_BYTES) // L.RECORD_BYTES
        total = L.HEADER_BYTES + capacity * L.RECORD_BYTES
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, total)
            self._map = mmap.mmap(fd, total)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        self.path = path
        self.capacity = capacity
        self._lock = threading.Lock()
        header = self._map
        _U64.pack_into(header, L.H_VERSION, L.VERSION)
        _U64.pack_into(header, L.H_CAPACITY, capacity)
        _U64.pack_into(header, L.H_PID, os.getpid())
        _U64.pack_into(header, L.H_START_TICKS, start_ticks(os.getpid()))
        _U64.pack_into(header, L.H_CREATED_NS, time.monotonic_ns())
        # The magic last: a reader takes a file without it for one that is still being made.
        header[L.H_MAGIC : L.H_MAGIC + 8] = L.MAGIC
        self.emit, self.emit_text = self._make_emitters()

    def _make_emitters(self) -> tuple[Emit, Callable[[int, int, int, int, bytes], None]]:
        """The two hot functions, with everything they need in closure cells."""
        pack = L.RECORD.pack_into
        pack_text = L.TEXT.pack_into
        buffer = self._map
        take = itertools.count().__next__
        capacity = self.capacity
        free_until = self.capacity
        make_room = self._make_room

        def emit(
            kind: int,
            key: int,
            t0: int,
            t1: int = 0,
            a: int = 0,
            b: int = 0,
            c: int = 0,
            s: int = 0,
        ) -> None:
            nonlocal free_until
            n = take()
            if n >= free_until:
                free_until = make_room(n)
            offset = 4096 + (n % capacity) * 64
            try:
                pack(buffer, offset, n + 1, kind, s, c, key, t0, t1, a, b, n + 1)
            except Exception:
                # A number that does not fit: the reader would wait for this slot for ever.
                pack(buffer, offset, n + 1, 0, 0, 0, 0, 0, 0, 0, 0, n + 1)
                raise

        def emit_text(kind: int, key: int, s: int, c: int, payload: bytes) -> None:
            nonlocal free_until
            n = take()
            if n >= free_until:
                free_until = make_room(n)
            offset = 4096 + (n % capacity) * 64
            try:
                pack_text(buffer, offset, n + 1, kind, s, c, key, payload, n + 1)
            except Exception:
                pack(buffer, offset, n + 1, 0, 0, 0, 0, 0, 0, 0, 0, n + 1)
                raise

        return emit, emit_text

    def _make_room(self, n: int) -> int:
        """Record `n` is about to be written: count what it overwrites.

        Returns the number of the first record for which this must be asked again.
        """
        free_until: int = _U64.unpack_from(self._map, L.H_COPIED)[0] + self.capacity
        if n < free_until:
            return free_until
        offset = L.HEADER_BYTES + (n % self.capacity) * L.RECORD_BYTES
        head, kind = struct.unpack_from("<QH", self._map, offset)
        if head:
            self._add(L.H_DROPS + 8 * (kind % L.MAX_KINDS))
        return n + 1

    def count_error(self) -> None:
        """An exception of ours was swallowed."""
        self._add(L.H_ERRORS)

    def _add(self, offset: int) -> None:
        # A rare path, and `+=` on shared memory is not atomic between threads.
        with self._lock:
            _U64.pack_into(self._map, offset, _U64.unpack_from(self._map, offset)[0] + 1)
