"""What a process has just recorded, seen as it is written and taken from nobody."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Collection
from pathlib import Path

from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.reader import Record, decode

_U64 = struct.Struct("<Q")
_POLL_S = 0.0002


class WatchedRing:
    """A ring from now on; its reader goes on as if nobody watched."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        (self._capacity,) = _U64.unpack_from(self._map, L.H_CAPACITY)
        heads = (self._u64(slot) for slot in range(self._capacity))
        self._next = max(heads)
        """Number of the next record; a slot holds its record's number plus one."""

    def _u64(self, slot: int) -> int:
        value: int = _U64.unpack_from(self._map, L.HEADER_BYTES + slot * L.RECORD_BYTES)[0]
        return value

    def wait_for(self, kinds: Collection[L.Kind], timeout_s: float) -> Record:
        """The next record of one of these kinds, within fractions of a millisecond."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            slot = self._next % self._capacity
            if self._u64(slot) != self._next + 1:
                time.sleep(_POLL_S)
                continue
            begin = L.HEADER_BYTES + slot * L.RECORD_BYTES
            piece = self._map[begin : begin + L.RECORD_BYTES]
            if piece[56:64] != piece[:8]:
                continue  # half written
            self._next += 1
            record = decode(piece)
            if record.kind in kinds:
                return record
        raise AssertionError(f"no record of {[kind.name for kind in kinds]} in {timeout_s} s")

    def close(self) -> None:
        self._map.close()
