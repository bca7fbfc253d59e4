"""What a server prints: kept in a file without its secrets, and its last words.

vLLM prints its arguments when it starts, `--api-key` among them, and the file outlives the run.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vllm_codesign.recorder.command_line import HIDDEN

_TAIL_BYTES = 65_536
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b\s*:|\berror:|\bNo module named\b")
_CONSEQUENCE = re.compile(r"Engine core initialization failed|WorkerProc initialization failed")
"""What vLLM's outer processes say after an inner one has named the cause."""
_LEAST = 4
"""Letters of a secret that is looked for: a shorter one is in half of all words."""
_SETTLE_S = 1.0


class ServerLog:
    """The log of one server at `path`; `secrets` become `...` in it."""

    def __init__(self, path: Path, secrets: Sequence[str] = ()) -> None:
        self.path = path
        self._hidden = _spellings(secrets)
        self._copying: threading.Thread | None = None
        self._failed: OSError | None = None

    @contextmanager
    def sink(self) -> Iterator[int]:
        """The file descriptor that the server is to write to; the server keeps its own copy."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb", buffering=0) as file:
            if not self._hidden:
                yield file.fileno()
                return
        reading, writing = os.pipe()
        self._copying = threading.Thread(
            target=self._copy, args=(reading,), name="codesign-server-log", daemon=True
        )
        self._copying.start()
        try:
            yield writing
        finally:
            os.close(writing)

    def settle(self) -> None:
        """Wait until the file has what was printed; not for long, since a process that outlives
        the server, as the exporter does, may keep the pipe open."""
        if self._copying is not None:
            self._copying.join(_SETTLE_S)

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

    def _copy(self, reading: int) -> None:
        held = b""
        with os.fdopen(reading, "rb", buffering=0) as pipe, self.path.open("ab", 0) as file:
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
        while text and self._failed is None:
            try:
                text = text[os.write(file, text) :]
            except OSError as error:
                # A full disk. What comes is still read: the server must not wait for us.
                self._failed = error


def _spellings(secrets: Sequence[str]) -> list[bytes]:
    """Each as it is, as JSON has it and as Python prints it; the longest first."""
    found = {
        spelling.encode("utf-8", "surrogateescape")
        for secret in secrets
        if len(secret) >= _LEAST
        for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    }
    return sorted(found, key=lambda spelling: (-len(spelling), spelling))
