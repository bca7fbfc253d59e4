"""Raw records in the capture, for `codesign dump`: kept with CODESIGN_KEEP_RECORDS=1.

One file per producer, `records/PID.records`: an 8-byte magic, a 4-byte version, 4 bytes
for the size of a record, then records exactly as they stood in the ring.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.reader import Record, decode

logger = logging.getLogger(__name__)

MAGIC = b"CDSNRECS"
_HEADER = struct.Struct("<8sII")


class RecordKeeper:
    """Writes every record that the exporter takes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[int, BufferedWriter] = {}
        self._failed = False

    def add(self, pid: int, record: Record) -> None:
        if self._failed:
            return
        try:
            file = self._files.get(pid)
            if file is None:
                file = (self._folder / f"{pid}.records").open("ab")
                size = file.tell()
                if size < _HEADER.size:
                    file.truncate(0)
                    file.write(_HEADER.pack(MAGIC, L.VERSION, L.RECORD_BYTES))
                else:
                    # An exporter that was killed left half a record behind.
                    file.truncate(size - (size - _HEADER.size) % L.RECORD_BYTES)
                self._files[pid] = file
            file.write(encode(record))
        except OSError as error:
            self._failed = True
            logger.error("codesign: raw records are no longer kept: %s", error)

    def close(self) -> None:
        for file in self._files.values():
            try:
                file.close()
            except OSError as error:
                logger.error("codesign: raw records are not whole: %s", error)


def encode(record: Record) -> bytes:
    """The 64 bytes of a record."""
    number = record.number + 1
    if record.kind in L.TEXT_KINDS:
        return L.TEXT.pack(
            number, record.kind, record.s, record.c, record.key, record.payload, number
        )
    return L.RECORD.pack(
        number,
        record.kind,
        record.s,
        record.c,
        record.key,
        record.t0,
        record.t1,
        record.a,
        record.b,
        number,
    )


def read_records(path: Path) -> Iterator[Record]:
    """The records of one file.

    Raises ValueError where the file is none, is of another version, or is damaged: in the
    last case after the records before the damage.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise ValueError(f"{path} holds no raw records")
        _, version, size = _HEADER.unpack(header)
        if (version, size) != (L.VERSION, L.RECORD_BYTES):
            raise ValueError(f"{path} has format {version}; this version reads {L.VERSION}")
        while raw := file.read(L.RECORD_BYTES):
            if len(raw) < L.RECORD_BYTES:
                raise ValueError(f"{path} ends within a record, {len(raw)} bytes into it")
            if raw[:8] != raw[56:] or raw[:8] == bytes(8):
                raise ValueError(f"{path} is damaged at byte {file.tell() - L.RECORD_BYTES}")
            yield decode(raw)
