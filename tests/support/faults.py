"""What fault tests need: load that goes on in the background, small file systems, leftovers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.support.mixed_load import text
from tests.support.serving import Serving, Traces, processes_under, wait_until
from vllm_codesign import semconv as S
from vllm_codesign.recorder.process import alive, start_ticks
from vllm_codesign.recorder.session import Session
from vllm_codesign.store.capture import Capture, captures

SHM = Path("/dev/shm")


@dataclass
class Call:
    """One streamed request as its client saw it. Times are Unix seconds."""

    trace_id: str
    tokens: int
    began_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    answered: bool = False
    """Every token and the end of the stream arrived."""
    trouble: str = ""


@dataclass
class Load:
    """`clients` that send one streamed request after the other until `stop`."""

    url: str
    model: str
    clients: int = 4
    tokens: int = 24
    calls: list[Call] = field(default_factory=list)
    _stopping: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def send_no_more(self) -> None:
        self._stopping = True

    def stop(self) -> list[Call]:
        """End after the requests that are on their way; all calls, in the order of their start."""
        self.send_no_more()
        assert self._thread is not None
        self._thread.join(120)
        assert not self._thread.is_alive(), "clients still wait for an answer"
        return self.calls

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=100)
        async with aiohttp.ClientSession(self.url, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, n) for n in range(self.clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        rng = random.Random(f"{number} {time.time_ns()}")
        while not self._stopping:
            call = Call(f"{rng.getrandbits(128) | 1:032x}", self.tokens)
            self.calls.append(call)
            try:
                await self._send(session, call, rng)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                call.trouble = f"{type(error).__name__}: {error}"
                await asyncio.sleep(0.05)
            call.ended_s = time.time()

    async def _send(self, session: aiohttp.ClientSession, call: Call, rng: random.Random) -> None:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text(rng.randint(20, 120), rng)}],
            "max_tokens": call.tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"traceparent": f"00-{call.trace_id}-{rng.getrandbits(64) | 1:016x}-01"}
        call.began_s = time.time()
        generated, done = 0, False
        async with session.post("/v1/chat/completions", json=body, headers=headers) as response:
            call.status = response.status
            async for line in response.content:
                data = line.strip().removeprefix(b"data: ")
                if data == b"[DONE]":
                    done = True
                elif data.startswith(b"{"):
                    usage = json.loads(data).get("usage")
                    generated = usage["completion_tokens"] if usage else generated
        call.answered = done and call.status == 200 and generated == call.tokens
        if not call.answered:
            call.trouble = f"status {call.status}, {generated} tokens, done {done}"


@contextmanager
def loaded(serving: Serving, clients: int = 4, tokens: int = 24) -> Iterator[Load]:
    """Load in the background; it is stopped at the end."""
    load = Load(serving.url, serving.model, clients, tokens).start()
    try:
        yield load
    finally:
        load.stop()


def send(serving: Serving, count: int) -> list[Call]:
    """`count` requests from one client, all answered."""
    load = Load(serving.url, serving.model, clients=1).start()
    wait_until(lambda: len(load.calls) > count, 120, f"{count} answers")
    calls = load.stop()
    assert_answered(calls)
    return calls


def assert_answered(calls: list[Call]) -> None:
    assert calls
    wrong = [c for c in calls if not c.answered]
    assert not wrong, f"{len(wrong)} of {len(calls)} calls not answered: {wrong[:3]}"


def kill_group_of(serving: Serving) -> list[tuple[int, int]]:
    """Every process of the server as (pid, start), without our exporter and its standby."""
    ours = exporters(serving.session.folder)
    return [
        (pid, start_ticks(pid)) for pid in processes_under(serving.server.pid) if pid not in ours
    ]


@dataclass
class Leftovers:
    """What a server must not leave behind; taken while it runs."""

    folder: Path
    exporter: tuple[int, int]
    processes: list[tuple[int, int]]

    @classmethod
    def of(cls, serving: Serving) -> Leftovers:
        session = serving.session
        return cls(session.folder, session.exporter, kill_group_of(serving))

    @property
    def server_runs(self) -> bool:
        return any(alive(*process) for process in self.processes)

    def wait_for_end(self, timeout_s: float) -> float:
        """Wait until vLLM's processes have ended; the Unix time at which they had."""
        wait_until(lambda: not self.server_runs, timeout_s, "the end of vLLM's processes")
        return time.time()

    def assert_gone(self, timeout_s: float) -> None:
        """Session folder and exporter are gone soon after the server."""
        wait_until(lambda: not self.folder.exists(), timeout_s, f"{self.folder} removed")
        wait_until(lambda: not alive(*self.exporter), timeout_s, "the exporter's end")
        wait_until(lambda: not exporters(self.folder), timeout_s, "the end of its standby")


def exporter_back(session: Session, before: tuple[int, int], timeout_s: float) -> float:
    """Seconds until another exporter has taken over."""
    return wait_until(
        lambda: session.exporter != before and alive(*session.exporter),
        timeout_s,
        "another exporter",
    )


def assert_complete(store: Path, ended_s: float, within_s: float = 5.0) -> Capture:
    """The one capture of the store: closed, and within 5 s of the server's end."""
    (capture,) = captures(store)
    run = capture.load()
    assert run.complete
    assert run.finished_ns is not None
    late = run.finished_ns / 1e9 - ended_s
    print(f"closed {late:.2f} s after the server's end")
    assert late <= within_s
    assert not list(capture.path.glob("*/.*.tmp"))
    return capture


def outcomes(calls: list[Call], traces: Traces) -> dict[str, int]:
    """How the traces of `calls` ended; `missing` for those without."""
    counts: dict[str, int] = {}
    for call in calls:
        found = traces.by_id.get(call.trace_id)
        name = found[0].root.attributes[S.OUTCOME.key] if found else "missing"
        counts[str(name)] = counts.get(str(name), 0) + 1
    return counts


def analyze(capture: Path) -> str:
    """What `codesign analyze` prints where no name has to be folded."""
    command = Path(sys.executable).with_name("codesign")
    done = subprocess.run(
        [command, "analyze", str(capture)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(log: Path, level: str = "WARNING") -> list[str]:
    """Lines of ours in a server's log: of one level of vLLM's, or `""` for the exporter's."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")).splitlines()
    ours = [line for line in lines if "codesign: " in line]
    if level:
        return [line for line in ours if f"{level} " in line]
    return [line for line in ours if line.startswith("codesign: ")]


@contextmanager
def tmpfs(folder: Path, size: str, options: str = "") -> Iterator[Path]:
    """A file system of its own with so much room; needs the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    more = f"size={size}" + (f",{options}" if options else "")
    mount = ["mount", "-t", "tmpfs", "-o", more, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a process that is still ending may hold a file.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all the room that is left."""
    room = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    assert os.statvfs(folder).f_bavail == 0


def sessions_of(shm: Path, pid: int) -> list[Path]:
    return sorted(shm.glob(f"codesign-{pid}-*"))


def exporters(folder: Path) -> list[int]:
    """Processes that export this session: the exporter and its standby."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and str(folder).encode() in _exporter_command(int(entry.name)):
            found.append(int(entry.name))
    return sorted(found)


def exporters_below(pid: int) -> list[int]:
    """Exporters and standbys among `pid`'s descendants."""
    return [child for child in processes_under(pid) if _exporter_command(child)]


def _exporter_command(pid: int) -> bytes:
    """The command line of an exporter; empty for any other process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended meanwhile
    return command if b"vllm_codesign.exporter" in command else b""


def roles(session: Session) -> dict[str, int]:
    """Pid of each role in a session."""
    found = {}
    for path in session.folder.glob("*.hooks.json"):
        report = json.loads(path.read_text())
        found.update(dict.fromkeys(report["roles"], report["pid"]))
    return found


def kill(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return  # it followed another one that was killed before it
