"""A capture: the folder of one server run, and how one is found.

<store>/20261123T144801Z-4711/
    run.json            who ran, on what, with which hooks, and what was lost
    traces/*.parquet    spans
    series/*.parquet    sampled figures
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.errors import StoreError

SCHEMA_VERSION = 1
RUN_STORES = ("capture", "capture-store")
"""Stores inside the folder of a demo and of a benchmark that started its own server."""
FRESH_S = 3600.0
"""A run whose `run.json` was touched this recently counts as live; the exporter rewrites it
with each clock anchor, well within that time."""


class _Model(BaseModel):
    # A newer version may have written more: read what we know.
    model_config = ConfigDict(extra="ignore")


class HookRow(_Model):
    """One row of a hook table in one process, and how it ended."""

    process: str
    pid: int
    role: str = ""
    row: str
    target: str = ""
    status: str
    detail: str = ""


class ClockAnchor(_Model):
    """One reading of both clocks."""

    monotonic_ns: int
    unix_ns: int


class Removed(_Model):
    """What the caps of the store took away."""

    segments: int = 0
    bytes: int = 0


class ProcessCpus(_Model):
    """Where a vLLM process may run."""

    pid: int
    role: str = ""
    cpus: str = Field(description="any of its threads may run there, as `0-3,8`")
    cpu_count: int
    numa_nodes: list[int] = Field(default_factory=list, description="the nodes of those CPUs")


class CpuFacts(_Model):
    """CPUs, NUMA nodes and frequency governors, as last looked at."""

    numa_nodes: dict[str, str] = Field(default_factory=dict, description="CPUs by node")
    governors: dict[str, str] = Field(
        default_factory=dict, description="CPUs by cpufreq governor; empty where there is none"
    )
    processes: list[ProcessCpus] = Field(default_factory=list)


class RunInfo(_Model):
    """`run.json`."""

    schema_version: Literal[1] = 1
    run_id: str
    pid: int = Field(description="the server's process; the run is live while it is")
    host: str = Field(default_factory=socket.gethostname)
    started_ns: int = Field(description="Unix time")
    finished_ns: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    level: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    hooks: list[HookRow] = Field(default_factory=list)
    anchors: list[ClockAnchor] = Field(default_factory=list)
    drops: dict[str, int] = Field(default_factory=dict, description="lost records by kind")
    counters: dict[str, int] = Field(default_factory=dict)
    cpu: CpuFacts | None = None
    removed: Removed = Field(default_factory=Removed, description="kept by retention alone")
    complete: bool = Field(default=False, description="the exporter ended with all drained")


@dataclass(frozen=True, slots=True)
class Capture:
    """The folder of one run."""

    path: Path

    @property
    def traces(self) -> Path:
        return self.path / "traces"

    @property
    def series(self) -> Path:
        return self.path / "series"

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    def load(self) -> RunInfo:
        """`run.json`, checked."""
        try:
            return RunInfo.model_validate_json(self.run_file.read_bytes())
        except OSError as error:
            raise CodesignError(f"cannot read {self.run_file}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise CodesignError(
                f"{self.run_file} is not a run of this version: {where}: {first['msg']}"
            ) from error

    def save(self, run: RunInfo) -> None:
        """Write `run.json` in one step. What retention recorded in it stays.

        Raises `StoreError` where the folder cannot be written.
        """
        try:
            # Again each time: an operator may have emptied the store under a running server.
            self.path.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if (known := self._peek()) is not None:
                    run = run.model_copy(update={"removed": known.removed})
                self._replace(run)
        except OSError as error:
            raise StoreError(f"cannot write {self.run_file}: {error.strerror}") from error

    def update(self, change: Callable[[RunInfo], RunInfo]) -> None:
        """Read, change and write `run.json` while nobody else does. No file, no change.

        The file keeps its time, which is the sign of life of the run's own exporter.
        """
        with self._locked():
            if (known := self._peek()) is not None:
                stat = self.run_file.stat()
                self._replace(change(known))
                os.utime(self.run_file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def is_live(self, now_s: float | None = None) -> bool:
        """Whether a server may still be writing here. In doubt it is."""
        try:
            touched_s = self.run_file.stat().st_mtime
        except FileNotFoundError:
            return False
        run = self._peek()
        if run is None:
            return (time.time() if now_s is None else now_s) - touched_s < FRESH_S
        if run.complete:
            return False
        if (time.time() if now_s is None else now_s) - touched_s < FRESH_S:
            return True
        return run.host == socket.gethostname() and Path(f"/proc/{run.pid}").exists()

    def _peek(self) -> RunInfo | None:
        try:
            return RunInfo.model_validate_json(self.run_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def _replace(self, run: RunInfo) -> None:
        temporary = self.path / f".run.json.{os.getpid()}.tmp"
        temporary.write_text(run.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.run_file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exporter and retention both rewrite `run.json`; neither may undo the other."""
        with (self.path / ".lock").open("w") as lock:
            # Some network file systems have no locks. The rename still keeps the file
            # whole; all that can be lost is a count of removed segments.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def create(store: Path, run: RunInfo) -> Capture:
    """Make the folder of `run` in `store`, or take it up again after the exporter died.

    In the second case `run.json` stays as it was: `load()` it and go on from there. Raises
    `StoreError` where the store cannot be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(run.started_ns // 1_000_000_000))
    capture = Capture(store / f"{stamp}-{run.pid}")
    try:
        capture.traces.mkdir(parents=True, exist_ok=True)
        capture.series.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {capture.path}: {error.strerror}") from error
    if not capture.run_file.exists():
        capture.save(run)
    return capture


def captures(store: Path) -> list[Capture]:
    """All captures of a store, oldest first (their names begin with the time)."""
    try:
        folders = sorted(path for path in store.iterdir() if _is_capture(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Capture(path) for path in folders]


def latest(store: Path) -> Capture:
    """The newest capture of a store."""
    found = captures(store)
    if not found:
        raise CodesignError(
            f"no capture in {store}: run `VLLM_PLUGINS=codesign vllm serve ...` first, "
            "or name the folder of a capture"
        )
    return found[-1]


def resolve(path: Path) -> Capture:
    """The capture that `path` means: itself, the newest of a store, or of a run's store inside."""
    if not path.exists():
        raise CodesignError(f"{path} does not exist: name a capture, a store or a demo folder")
    if path.name == "run.json":
        return Capture(path.parent)
    if _is_capture(path):
        return Capture(path)
    for inside in RUN_STORES:
        if (path / inside).is_dir():
            return resolve(path / inside)
    if found := captures(path):
        return found[-1]
    raise CodesignError(f"{path} is not a capture: no run.json, no traces/ and no capture below it")


def _is_capture(path: Path) -> bool:
    return (path / "run.json").is_file() or (path / "traces").is_dir()
