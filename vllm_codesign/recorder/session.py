"""A session: the shared-memory folder of one server run on one host.

    <shm>/codesign-<pid>-<start>/     mode 0700
        control                       one page: level, owner, exporter, what was lost
        session.json                  settings and versions of the owner
        <role>-<pid>.ring             one per recording process
        <role>-<pid>.hooks.json       outcome of each hook there

The first process that constructs an engine creates it and names it to its children in the
environment. The exporter removes it when every producer is gone and drained.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_codesign.recorder.process import alive, identity, pid_namespace
from vllm_codesign.recorder.reader import NotARing, RingReader

CONTROL_MAGIC = b"CDSNCTRL"
CONTROL_VERSION = 1
CONTROL_BYTES = 4096
C_VERSION = 8
C_OWNER_PID = 16
C_OWNER_TICKS = 24
C_EXPORTER_PID = 32
C_EXPORTER_TICKS = 40
C_EXPORTER_STARTS = 48  # how often an exporter was started for this session
C_OPEN_REQUESTS = 56  # requests in assembly; what a killed exporter takes with it
C_OPEN_LOST = 64  # their sum over all exporters that were killed
C_NO_RING = 72  # one byte: a process found no room for its ring, and said so
C_CLOSING = 73  # one byte: the owner is about to exit and waits for the exporter
C_PID_NAMESPACE = 80
C_LEVEL = 128  # one byte, read first by every hook
C_COUNTED_SINCE = 504  # Unix nanoseconds: the first exporter's start, from which losses count
C_LOSSES = 512  # what all exporters together counted as lost, by `exporter/tally.py`
C_DROPS_TOLD = 1024  # a count for each kind of record: those lost, as the exporter last told

MAX_TOTAL_BYTES = 16 << 20
"""All rings of a session together: containers give /dev/shm 64 MB, and vLLM wants it too."""

FOREIGN_S = 600.0
"""Of a session in another pid namespace (containers that share /dev/shm) only the heartbeat of
its exporter can be seen from here; after this long without one it counts as dead."""

_U64 = struct.Struct("<Q")


class SessionGone(ValueError):
    """The folder is no session, or not one that this version can join."""


@dataclass(slots=True)
class Session:
    """A joined session: its folder and its mapped control page."""

    folder: Path
    control: mmap.mmap

    def _get(self, offset: int) -> int:
        value: int = _U64.unpack_from(self.control, offset)[0]
        return value

    def _set(self, offset: int, value: int) -> None:
        _U64.pack_into(self.control, offset, value)

    @property
    def level(self) -> int:
        """0 off (dormant), 1 request, 2 step."""
        return self.control[C_LEVEL]

    @level.setter
    def level(self, value: int) -> None:
        self.control[C_LEVEL] = value

    @property
    def closing(self) -> bool:
        """The owner exits, and whatever runs in its container may end with it."""
        return bool(self.control[C_CLOSING])

    def close_down(self) -> None:
        self.control[C_CLOSING] = 1

    @property
    def foreign(self) -> bool:
        """Its pids are those of another pid namespace."""
        return self._get(C_PID_NAMESPACE) != pid_namespace()

    def beat(self) -> None:
        """The exporter's sign of life, once a second."""
        with suppress(FileNotFoundError):  # removed from outside; the loop ends by itself
            os.utime(self.folder / "control")

    @property
    def owner(self) -> tuple[int, int]:
        return self._get(C_OWNER_PID), self._get(C_OWNER_TICKS)

    @property
    def exporter(self) -> tuple[int, int]:
        return self._get(C_EXPORTER_PID), self._get(C_EXPORTER_TICKS)

    @property
    def exporter_starts(self) -> int:
        return self._get(C_EXPORTER_STARTS)

    @property
    def requests_lost(self) -> int:
        """Requests that were in assembly when an exporter was killed."""
        return self._get(C_OPEN_LOST)

    def enter_exporter(self) -> None:
        """This process is the exporter from now on; what its predecessor held is lost."""
        pid, ticks = identity()
        self._set(C_EXPORTER_PID, pid)
        self._set(C_EXPORTER_TICKS, ticks)
        self._set(C_EXPORTER_STARTS, self.exporter_starts + 1)
        self._set(C_OPEN_LOST, self.requests_lost + self._get(C_OPEN_REQUESTS))
        self._set(C_OPEN_REQUESTS, 0)

    @property
    def open_requests(self) -> int:
        """Requests that the exporter has not handed out yet."""
        return self._get(C_OPEN_REQUESTS)

    def report_open(self, requests: int) -> None:
        self._set(C_OPEN_REQUESTS, requests)

    def first_without_ring(self) -> bool:
        """True for the first process that asks: it warns, the others need not."""
        first = not self.control[C_NO_RING]
        self.control[C_NO_RING] = 1
        return first

    def rings(self) -> list[Path]:
        return sorted(self.folder.glob("*.ring"))

    def room(self, wanted: int) -> int:
        """Bytes a new ring may take: `wanted`, or what is left of the session's share."""
        used = sum(path.stat().st_size for path in self.rings())
        return min(wanted, MAX_TOTAL_BYTES - used)

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file whole."""
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps(value))
            temporary.rename(self.folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def create(shm: Path, level: int, description: dict[str, Any]) -> Session:
    """Make a session owned by this process. Raises OSError where there is no room."""
    pid, ticks = identity()
    folder = shm / f"codesign-{pid}-{ticks}"
    folder.mkdir(mode=0o700)
    try:
        session = _map_control(folder, create=True)
        session._set(C_VERSION, CONTROL_VERSION)
        session._set(C_OWNER_PID, pid)
        session._set(C_OWNER_TICKS, ticks)
        session._set(C_PID_NAMESPACE, pid_namespace())
        session.level = level
        session.control[:8] = CONTROL_MAGIC
        session.write_json("session.json", description)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return session


def join(folder: Path) -> Session:
    """Map an existing session. Raises SessionGone or OSError."""
    session = _map_control(folder, create=False)
    if session.control[:8] != CONTROL_MAGIC or session._get(C_VERSION) != CONTROL_VERSION:
        raise SessionGone(f"{folder}: not a session of this version")
    return session


def _map_control(folder: Path, create: bool) -> Session:
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
    fd = os.open(folder / "control", flags, 0o600)
    try:
        if create:
            os.posix_fallocate(fd, 0, CONTROL_BYTES)
        elif os.fstat(fd).st_size != CONTROL_BYTES:
            raise SessionGone(f"{folder}: control page of the wrong size")
        return Session(folder, mmap.mmap(fd, CONTROL_BYTES))
    finally:
        os.close(fd)


def sessions(shm: Path) -> Iterator[Session]:
    """Every session of this user under `shm`, alive or not."""
    for folder in sorted(shm.glob("codesign-*")):
        try:
            if folder.stat().st_uid == os.getuid():
                yield join(folder)
        except (OSError, SessionGone):
            continue  # gone or half made: not one to speak of


def live(session: Session) -> bool:
    """Whether any process of the session still runs."""
    if session.foreign:
        try:
            beat_s = (session.folder / "control").stat().st_mtime
        except FileNotFoundError:
            return False
        return time.time() - beat_s < FOREIGN_S
    return alive(*session.owner) or alive(*session.exporter) or any_producer(session)


def any_producer(session: Session) -> bool:
    for path in session.rings():
        try:
            ring = RingReader(path)
        except (OSError, NotARing):
            continue  # being made or being removed
        running = alive(ring.pid, ring.ticks)
        ring.close()
        if running:
            return True
    return False


def sweep(shm: Path) -> int:
    """Remove sessions of this user that nobody is left of; return how many."""
    removed = 0
    for session in sessions(shm):
        if not live(session):
            session.remove()
            removed += 1
    for folder in _half_made(shm):
        shutil.rmtree(folder, ignore_errors=True)
        removed += 1
    return removed


def _half_made(shm: Path) -> Iterator[Path]:
    """Folders whose maker died before there was a control page; the name says who it was."""
    for folder in sorted(shm.glob("codesign-*-*")):
        _, pid, ticks = folder.name.split("-", 2)
        if not (pid.isdigit() and ticks.isdigit()) or alive(int(pid), int(ticks)):
            continue
        try:
            made = (folder / "control").read_bytes()[:8] == CONTROL_MAGIC
        except FileNotFoundError:
            made = False
        except OSError:
            continue  # not ours to read
        with suppress(FileNotFoundError):  # its exporter is just removing it
            if not made and folder.stat().st_uid == os.getuid():
                yield folder
