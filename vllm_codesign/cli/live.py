"""The live servers of this user, as `level` and `doctor` show them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_codesign import settings
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.process import alive, parent
from vllm_codesign.recorder.reader import NotARing, RingReader
from vllm_codesign.recorder.session import Session, sessions

_KIND_NAMES = {kind.value: kind.name.lower() for kind in Kind}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that records, or may: one of its processes runs."""

    session: Session
    pid: int
    started_ns: int
    """Unix time; 0 where the session does not say."""
    argv: tuple[str, ...]
    producers: tuple[int, ...]
    exporter: int
    """Pid of the running exporter; 0 where there is none."""
    drops: dict[str, int]
    hook_errors: int

    @property
    def level(self) -> str:
        number = self.session.level
        return settings.LEVELS[number] if number < len(settings.LEVELS) else f"number {number}"

    @property
    def lost(self) -> int:
        return sum(self.drops.values())

    @property
    def what(self) -> str:
        """The model, or else the command line, short."""
        argv = self.argv
        for index, word in enumerate(argv[:-1]):
            if word in ("serve", "--model"):
                return argv[index + 1]
            if word.startswith("--model="):
                return word.partition("=")[2]
        line = " ".join((Path(argv[0]).name, *argv[1:])) if argv else ""
        return line if len(line) <= 60 else line[:59] + "…"

    def has(self, pid: int) -> bool:
        """Whether `pid` is one of the server's processes: any below its owner is."""
        if pid in (self.pid, self.exporter, *self.producers):
            return True
        above = pid
        while above := parent(above):
            if above == self.pid:
                return True
        return False

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pid": self.pid,
            "started_unix_ns": self.started_ns,
            "level": self.level,
            "model": self.what,
            "argv": list(self.argv),
            "processes": list(self.producers),
            "exporter_pid": self.exporter or None,
            "exporter_starts": self.session.exporter_starts,
            "records_lost": self.drops,
            "requests_lost": self.session.requests_lost,
            "hook_errors": self.hook_errors,
            "session": str(self.session.folder),
        }


def servers(shm: Path) -> list[Server]:
    """Live servers of this user whose sessions are under `shm`."""
    # Of another container only the existence can be seen, and its processes not be named.
    found = (_server(session) for session in sessions(shm) if not session.foreign)
    return [server for server in found if server is not None]


def _server(session: Session) -> Server | None:
    drops: Counter[str] = Counter()
    producers, errors = [], 0
    for ring in _rings(session):
        if alive(ring.pid, ring.ticks):
            producers.append(ring.pid)
        errors += ring.errors
        for number, count in ring.drops().items():
            drops[_KIND_NAMES.get(number, f"kind_{number}")] += count
        ring.close()
    if not producers and not alive(*session.owner):
        return None  # over; its exporter may still be writing
    description = _description(session)
    return Server(
        session=session,
        pid=session.owner[0],
        started_ns=int(description.get("started_unix_ns", 0)),
        argv=tuple(map(str, description.get("argv", ()))),
        producers=tuple(producers),
        exporter=session.exporter[0] if alive(*session.exporter) else 0,
        drops=dict(drops),
        hook_errors=errors,
    )


def _rings(session: Session) -> Iterator[RingReader]:
    for path in session.rings():
        try:
            yield RingReader(path)
        except (OSError, NotARing):
            continue  # being made or being removed


def _description(session: Session) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads((session.folder / "session.json").read_text())
    except (OSError, ValueError):
        return {}  # being made or being removed; there is enough to show without
    return read


def age(started_ns: int) -> str:
    """How long ago, in the largest unit that fits."""
    if not started_ns:
        return "?"
    seconds = max(time.time_ns() - started_ns, 0) // 1_000_000_000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
