"""What is in the rings: records counted by kind, without taking any from the exporter."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.reader import Record, decode
from vllm_codesign.recorder.session import Session

_CAPACITY = struct.Struct("<Q")


def read_ring(path: Path) -> dict[int, Record]:
    """Every whole record that is still in the ring, by number."""
    raw = path.read_bytes()
    (capacity,) = _CAPACITY.unpack_from(raw, L.H_CAPACITY)
    found = {}
    for slot in range(capacity):
        begin = L.HEADER_BYTES + slot * L.RECORD_BYTES
        piece = raw[begin : begin + L.RECORD_BYTES]
        if piece[:8] == piece[56:64] and piece[:8] != bytes(8):
            record = decode(piece)
            found[record.number] = record
    return found


def position(path: Path) -> int:
    """How many records have been written to the ring."""
    return max(read_ring(path), default=-1) + 1


def since(path: Path, start: int) -> list[Record]:
    """Records from number `start` on, in order; RuntimeError where some are overwritten."""
    records = [r for number, r in sorted(read_ring(path).items()) if number >= start]
    if records and records[-1].number - start + 1 != len(records):
        raise RuntimeError(f"{path.name}: records were overwritten; send fewer requests")
    return records


@dataclass(slots=True)
class Tally:
    """What one load left in the rings of a server, by process and kind."""

    requests: int
    kinds: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    sends: int = 0
    detokenizer_calls: int = 0
    outputs: int = 0
    allocate_calls: int = 0
    connector_layers: int = 0
    """Calls of a KV connector layer by layer."""
    steps: int = 0
    tokens: int = 0
    """Tokens computed in a step, summed over the steps."""
    step_ns: list[int] = field(default_factory=list)
    """From the beginning of one step in the worker to that of the next."""

    def add(self, role: str, records: Iterable[Record]) -> None:
        kinds = self.kinds[role]
        last: int | None = None
        for record in records:
            kinds[L.Kind(record.kind).name] += 1
            match record.kind:
                case L.Kind.ROOT_STREAM:
                    self.sends += record.c + 1  # and the headers
                case L.Kind.REQ_DETOKENIZE:
                    self.detokenizer_calls += record.c
                case L.Kind.REQ_OUT:
                    self.outputs += record.a
                case L.Kind.ENG_ALLOCATE:
                    self.allocate_calls += record.c
                case L.Kind.ENG_DECODE_KV:
                    self.allocate_calls += record.t1
                case L.Kind.WORKER_KV:
                    self.connector_layers += record.c >> 8
                case L.Kind.WORKER_EXECUTE if record.c:
                    self.steps += 1
                    self.tokens += record.c
                    if last is not None:
                        self.step_ns.append(record.t0 - last)
                    last = record.t0

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "kinds": {role: dict(kinds) for role, kinds in self.kinds.items()}}

    def total(self, role: str) -> int:
        return self.kinds[role].total()

    def text(self, role: str) -> int:
        """Records that are pieces of strings or of arrays."""
        kinds = self.kinds[role]
        return sum(kinds[kind.name] for kind in L.TEXT_KINDS)


def ring_of(session: Session, pid: int) -> Path:
    return session.folder / f"process-{pid}.ring"
