"""A server as a context manager: started, awaited, and gone afterwards.

    with VllmServer(model, flags=["--enforce-eager"], log_path=out / "server.log") as server:
        ...  # server.url answers /health

Whatever happens inside the block or while the server starts, no process is left behind:
the server has a process group of its own, which is interrupted, then terminated, then
killed; and should this process itself be killed, the kernel terminates the server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from vllm_codesign.bench.server_log import ServerLog
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.command_line import secrets_in

_DEFAULTS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""Set only where the environment says nothing."""

_PROGRESS_EVERY_S = 10.0
_TERMINATE_S = 5.0
_ORPHAN_S = 3.0
"""Patience with what is left of the group when the server itself has ended: it was told too."""
_POLL_S = 0.25
_PR_SET_PDEATHSIG = 1


def say(line: str) -> None:
    """Progress, for people: one line on stderr."""
    print(line, file=sys.stderr, flush=True)


class Server:
    """A command that serves HTTP on a loopback port and says there whether it is healthy.

    `env` is added to this process's environment. Attributes: `url`, `pid`, `log_path`, and
    `command`, whose secrets the log does not have. Raises CodesignError if the server dies or
    is not healthy in `timeout_s`.
    """

    name = "the server"
    health = "/health"

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        env: Mapping[str, str],
        log_path: Path,
        timeout_s: float,
        progress: Callable[[str], None],
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log_path = log_path
        self.command = list(command)
        given = [f"{name}={value}" for name, value in env.items()]
        self._log = ServerLog(log_path, secrets_in([*self.command, *given]))
        self._env = {**os.environ, **env}
        self._timeout_s = timeout_s
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the API server (its launcher where there are several), and the
        process group of all that it starts."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it is healthy."""
        try:
            self._spawn()
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = 30.0) -> None:
        """End the server and everything in its process group; safe to call twice.

        A second interrupt while it shuts down does not wait: the group is killed, then
        the interrupt goes on.
        """
        process = self._process
        if process is None:
            return
        try:
            for number, patience_s in ((signal.SIGINT, grace_s), (signal.SIGTERM, _TERMINATE_S)):
                _signal_group(process.pid, number)
                if _wait_for_end(process, patience_s):
                    break
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            self._process = None
            self._log.settle()
            if (problem := self._log.problem()) is not None:
                self._progress(problem)

    def _spawn(self) -> None:
        with self._log.sink() as log, _no_interrupt():
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                    preexec_fn=_death_signal_setter(),  # noqa: PLW1509 (one C call, no Python lock)
                )
            except OSError as error:
                raise CodesignError(
                    f"cannot run {self.command[0]} ({error.strerror}): name a Python that has "
                    f"{self.name}"
                ) from error

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        begun = time.monotonic()
        next_line = begun + _PROGRESS_EVERY_S
        self._progress(f"starting {self.name}, log in {self.log_path}")
        while not _healthy(self.url + self.health):
            if self._process.poll() is not None:
                self._log.settle()
                raise CodesignError(
                    f"{self.name} ended while starting (exit {self._process.returncode}): "
                    f"{self._log.last_error()}; see {self.log_path}"
                )
            now = time.monotonic()
            if now - begun > self._timeout_s:
                raise CodesignError(
                    f"{self.name} was not healthy after {self._timeout_s:.0f} s; "
                    f"see {self.log_path}, or allow it more time"
                )
            if now >= next_line:
                next_line += _PROGRESS_EVERY_S
                self._progress(f"  {now - begun:3.0f} s: {self._log.last_line()}")
            time.sleep(_POLL_S)
        self._progress(f"{self.name} is up after {time.monotonic() - begun:.0f} s at {self.url}")


class VllmServer(Server):
    """`vllm serve MODEL FLAGS...` on a free loopback port.

    `python` is the interpreter of the environment that has vLLM; `url` is without `/v1`.
    """

    name = "vLLM"

    def __init__(
        self,
        model: str | Path,
        *,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
        log_path: Path,
        timeout_s: float = 600.0,
        progress: Callable[[str], None] = say,
    ) -> None:
        check_flags(flags)
        port = free_port()
        super().__init__(
            (
                *(str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(model)),
                *("--host", "127.0.0.1", "--port", str(port)),
                *flags,
            ),
            port,
            env={k: v for k, v in _DEFAULTS.items() if k not in os.environ} | dict(env or {}),
            log_path=log_path,
            timeout_s=timeout_s,
            progress=progress,
        )


def check_flags(flags: Sequence[str]) -> None:
    """Raise CodesignError for a flag of `vllm serve` that is not the user's to give."""
    for flag in flags:
        if flag.split("=")[0] in ("--host", "--port", "--uds"):
            raise CodesignError(f"{flag}: the address is chosen here; leave the flag out")


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# A proxy in the environment must not be asked for a server on loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _healthy(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class _no_interrupt:
    """Holds SIGINT and SIGTERM back while a process is started but not yet known to us."""

    def __enter__(self) -> None:
        self._seen: list[int] = []
        self._old: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, lambda n, _frame: self._seen.append(n))

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            # None: a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in self._seen:
            signal.raise_signal(number)


def _death_signal_setter() -> Callable[[], None] | None:
    """For Linux' main thread: makes the kernel terminate the child when this process dies.

    Elsewhere None: the signal comes when the *thread* that forked ends, so a short-lived
    thread would take its server with it.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None).prctl  # resolved before the fork

    def set_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return set_signal


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all of it has ended


def _wait_for_end(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Wait until no process of the group runs; False when patience ends first."""
    deadline = time.monotonic() + patience_s
    leader_ended = False
    while time.monotonic() < deadline:
        if process.poll() is not None:
            if not _group_runs(process.pid):
                return True
            if not leader_ended:
                leader_ended = True
                deadline = min(deadline, time.monotonic() + _ORPHAN_S)
        time.sleep(0.05)
    return False


def _group_runs(group: int) -> bool:
    """Whether any process of the group is alive; a zombie that nobody reaps is not."""
    proc = Path("/proc")
    if not proc.is_dir():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state ppid pgrp ...": the name may hold anything, the rest may not.
            state, _parent, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(pgrp) == group and state not in "ZX":
            return True
    return False
