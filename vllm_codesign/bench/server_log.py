"""What a server prints: kept in a file without its secrets, and its last words.

vLLM prints its arguments when it starts, `--api-key` among them, and the file outlives the run.

A server that was given a secret prints into a pipe, and a thread of this process copies it. While
this process is stopped (Ctrl-Z) the server goes on until the pipe is full, 1 MiB where the system
allows, and then waits in its next print until this process goes on. If this process is killed,
what is still in the pipe is lost and the server's next print fails; on Linux the kernel has sent
the server SIGTERM by then. Without a secret the server writes to the file itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vllm_codesign.recorder.command_line import HIDDEN

_TAIL_BYTES = 65_536
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b\s*:|\berror:|\bNo module named\b")
_CONSEQUENCE = re.compile(r"Engine core initialization failed|WorkerProc initialization failed")
"""What vLLM's outer processes say after an inner one has named the cause."""
_LEAST = 4
"""Letters of a secret that is looked for: a shorter one is in half of all words."""
_PIPE_BYTES = 1 << 20
"""What an ordinary user may have; 64 KiB is usual."""
_QUIET_S = 1.0
_SETTLE_S = 10.0


class ServerLog:
    """The log of one server at `path`; `secrets` become `...` in it."""

    def __init__(self, path: Path, secrets: Sequence[str] = ()) -> None:
        self.path = path
        self._hidden = _spellings(secrets)
        self._copying: threading.Thread | None = None
        self._failed: OSError | None = None
        self._written = 0

    @contextmanager
    def sink(self) -> Iterator[int]:
        """The file descriptor that the server is to write to; the server keeps its own copy.

        Raises `OSError` where the file cannot be opened, before anything is written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("wb", buffering=0)
        if not self._hidden:
            with file:
                yield file.fileno()
            return
        self._failed, self._written = None, 0
        reading, writing = os.pipe()
        _widen(writing)
        self._copying = threading.Thread(
            target=self._copy, args=(reading, file), name="codesign-server-log", daemon=True
        )
        self._copying.start()
        try:
            yield writing
        finally:
            os.close(writing)

    def settle(self) -> None:
        """Wait until the file has what was printed: to its end, or for as long as the file still
        grows, 10 s at most. A process that outlives the server, as the exporter does, may keep
        the pipe open and print nothing."""
        copying, deadline = self._copying, time.monotonic() + _SETTLE_S
        before = -1
        while copying is not None and copying.is_alive() and before < self._written:
            before = self._written
            copying.join(min(_QUIET_S, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                return

    def problem(self) -> str | None:
        """Why the file is not whole, once; None where it is."""
        failed, self._failed = self._failed, None
        return None if failed is None else f"{self.path} is not whole: {failed.strerror}"

    def last_line(self) -> str:
        lines = self._tail()
        return lines[-1][:160] if lines else "nothing logged yet"

    def last_error(self) -> str:
        """The last line that names an error, preferring causes to their consequences."""
        errors = [line for line in self._tail() if _ERROR.search(line)]
        causes = [line for line in errors if not _CONSEQUENCE.search(line)]
        lines = causes or errors
        return lines[-1][:300] if lines else self.last_line()

    def _tail(self) -> list[str]:
        try:
            with self.path.open("rb") as log:
                log.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        lines = (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]

    def _copy(self, reading: int, file: BinaryIO) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            try:
                with file:
                    self._fill(file, pipe)
            except OSError as error:
                # A full disk. What comes is still read: the server must not wait for us, and
                # without a reader its next print would fail.
                self._failed = error
                while pipe.read(_TAIL_BYTES):
                    pass

    def _fill(self, file: BinaryIO, pipe: BinaryIO) -> None:
        held = b""
        while block := pipe.read(_TAIL_BYTES):
            text = self._without(held + block)
            keep = len(text) - self._begun(text)
            held = text[keep:]
            self._write(file.fileno(), text[:keep])
        self._write(file.fileno(), held)

    def _without(self, text: bytes) -> bytes:
        for spelling in self._hidden:
            text = text.replace(spelling, HIDDEN.encode())
        return text

    def _begun(self, text: bytes) -> int:
        """How much of the end may be the beginning of a secret whose rest is still to come."""
        longest = min(len(text), len(self._hidden[0]) - 1)
        for length in range(longest, 0, -1):
            if any(spelling.startswith(text[-length:]) for spelling in self._hidden):
                return length
        return 0

    def _write(self, file: int, text: bytes) -> None:
        while text:
            n = os.write(file, text)
            text = text[n:]
            self._written += n


def _widen(pipe: int) -> None:
    """Room for what is printed while this process is stopped or busy."""
    # Linux alone has it, and a system may allow less: then it stays as it is.
    if (operation := getattr(fcntl, "F_SETPIPE_SZ", None)) is not None:
        with suppress(OSError):
            fcntl.fcntl(pipe, operation, _PIPE_BYTES)


def _spellings(secrets: Sequence[str]) -> list[bytes]:
    """Each as it is, as JSON has it and as Python prints it; the longest first."""
    found = {
        spelling.encode("utf-8", "surrogateescape")
        for secret in secrets
        if len(secret) >= _LEAST
        for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    }
    return sorted(found, key=lambda spelling: (-len(spelling), spelling))
