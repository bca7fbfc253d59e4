"""The reading end of a ring, in the exporter's process (and in tests)."""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vllm_codesign.recorder import layout as L

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_HEAD_KIND = struct.Struct("<QH")


class Record(NamedTuple):
    """One record; for text kinds `t0`…`b` are 0 and `payload` holds the bytes."""

    number: int
    kind: int
    s: int
    c: int
    key: int
    t0: int
    t1: int
    a: int
    b: int
    payload: bytes = b""


class NotARing(ValueError):
    """The file is no ring, or one of a version that this reader does not know."""


def decode(raw: bytes) -> Record:
    """The record in 64 bytes."""
    head, kind, s, c, key, t0, t1, a, b, _ = L.RECORD.unpack(raw)
    if kind in L.TEXT_KINDS:
        return Record(head - 1, kind, s, c, key, 0, 0, 0, 0, raw[24:56])
    return Record(head - 1, kind, s, c, key, t0, t1, a, b)


@dataclass(slots=True)
class RingReader:
    """Follows one ring. `read()` yields what is new, and gives the slots back as it goes.

    `lost` counts records that were never read: those overwritten, which the producer counts
    by kind, and those passed over to get out of its way, which are counted here. Both stand
    in the ring itself: they outlive a killed exporter.
    """

    path: Path
    pid: int = 0
    ticks: int = 0
    capacity: int = 0
    position: int = 0
    _map: mmap.mmap = field(init=False)

    def __post_init__(self) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if size < L.HEADER_BYTES:
                raise NotARing(f"{self.path}: {size} bytes")
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        if self._map[:8] != L.MAGIC:
            raise NotARing(f"{self.path}: no ring")
        if (version := self._u64(L.H_VERSION)) != L.VERSION:
            raise NotARing(f"{self.path}: format {version}, this reader knows {L.VERSION}")
        self.capacity = self._u64(L.H_CAPACITY)
        if size != L.HEADER_BYTES + self.capacity * L.RECORD_BYTES:
            raise NotARing(f"{self.path}: {size} bytes for {self.capacity} records")
        self.pid = self._u64(L.H_PID)
        self.ticks = self._u64(L.H_START_TICKS)
        self.position = self._u64(L.H_READ)

    def _u64(self, offset: int) -> int:
        value: int = _U64.unpack_from(self._map, offset)[0]
        return value

    @property
    def errors(self) -> int:
        """Exceptions swallowed in the producer's hooks."""
        return self._u64(L.H_ERRORS)

    @property
    def lost(self) -> int:
        """Records that no reader of this ring ever got."""
        return self._u64(L.H_LOST)

    def _lose(self, count: int) -> None:
        _U64.pack_into(self._map, L.H_LOST, self.lost + count)

    def drops(self) -> dict[int, int]:
        """Lost records by kind."""
        overwritten = struct.unpack_from(f"<{L.MAX_KINDS}Q", self._map, L.H_DROPS)
        passed = struct.unpack_from(f"<{L.MAX_KINDS}I", self._map, L.H_PASSED)
        both = (a + b for a, b in zip(overwritten, passed, strict=True))
        return {kind: count for kind, count in enumerate(both) if count}

    def read(
        self, final: bool = False, before_release: Callable[[], None] | None = None
    ) -> Iterator[Record]:
        """Every whole record from the current position on.

        `final`: the producer is dead, so a slot that was taken and never written is
        skipped instead of waited for. `before_release` is called each time that records are
        about to count as dealt with: the reader after a killed one will not see them again.
        """
        while True:
            slot = self.position % self.capacity
            begin = self._offset(self.position)
            head = self._u64(begin)
            if head != self.position + 1:
                if head > self.position + 1:
                    self._catch_up(head)
                    continue
                if final and self._skip_hole():
                    continue
                return
            # Copy twice: if both agree, nothing was overwritten in between.
            end = L.HEADER_BYTES + min(slot + 1024, self.capacity) * L.RECORD_BYTES
            raw = self._map[begin:end]
            whole = raw == self._map[begin:end]
            pieces: list[bytes] = []
            for offset in range(0, len(raw), L.RECORD_BYTES):
                piece = raw[offset : offset + L.RECORD_BYTES]
                want = self.position + len(pieces) + 1
                if (
                    _U64.unpack_from(piece, 0)[0] != want
                    or _U64.unpack_from(piece, 56)[0] != want
                    or (not whole and self._map[begin + offset : begin + offset + 64] != piece)
                ):
                    break
                pieces.append(piece)
            # From here on overwriting them loses nothing; dealt with they are only at the end,
            # where the reader after a killed one goes on.
            _U64.pack_into(self._map, L.H_COPIED, self.position + len(pieces))
            for piece in pieces:
                self.position += 1
                yield decode(piece)
            if pieces and before_release is not None:
                before_release()
            _U64.pack_into(self._map, L.H_READ, self.position)
            if not pieces:
                if final and self._skip_hole():
                    continue
                return

    def _offset(self, number: int) -> int:
        return L.HEADER_BYTES + (number % self.capacity) * L.RECORD_BYTES

    def _catch_up(self, head: int) -> None:
        """The writer is a lap ahead: go on with the oldest that is safe from it."""
        # An eighth of the ring as a margin, or the writer would catch us again at once.
        oldest = max(head - self.capacity, self.position)
        target = max(oldest + self.capacity // 8, self.position + 1)
        # First, or the writer counts what is passed over here as well.
        _U64.pack_into(self._map, L.H_COPIED, target)
        passed: Counter[int] = Counter()
        for number in range(oldest, target):
            found, kind = _HEAD_KIND.unpack_from(self._map, self._offset(number))
            if found == number + 1:
                passed[kind % L.MAX_KINDS] += 1
        for kind, count in passed.items():
            offset = L.H_PASSED + 4 * kind
            _U32.pack_into(self._map, offset, _U32.unpack_from(self._map, offset)[0] + count)
        self._lose(target - self.position)
        self.position = target
        _U64.pack_into(self._map, L.H_READ, self.position)

    def _skip_hole(self) -> bool:
        """Step over slots that were taken and never finished, if anything newer follows."""
        for ahead in range(1, 64):
            number = self.position + ahead
            if self._u64(self._offset(number)) == number + 1:
                self._lose(ahead)
                self.position = number
                return True
        return False

    def close(self) -> None:
        self._map.close()
