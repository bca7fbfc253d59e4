"""Reads what torch.profiler wrote: a Chrome trace as JSON, plain or gzipped.

Its times are microseconds with three decimals after `baseTimeNanoseconds`, which is Unix
time (`libkineto/src/output_json.cpp`); old versions of torch wrote no such base. These files
grow to gigabytes, so the list of events is read one by one and only what is drawn is kept.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from vllm_codesign.analysis.slices import Slices
from vllm_codesign.model.errors import CodesignError

DEVICE = frozenset(("kernel", "gpu_memcpy", "gpu_memset"))
DEVICE_NOTES = frozenset(("gpu_user_annotation",))
HOST = frozenset(("cpu_op", "user_annotation"))
_CHUNK = 1 << 20
_LONGEST = 64 << 20
"""Of one value; beyond it the file is not what it should be."""

Line = tuple[str, int | str, int | str]
"""What ran it: `device`, `annotations` or `host`; device or process; stream or thread."""


@dataclass
class Profile:
    """One file: of one rank. Times of `lines` are Unix nanoseconds."""

    path: Path
    rank: int | None = None
    lines: dict[Line, Slices] = field(default_factory=dict)

    @property
    def window(self) -> tuple[int, int]:
        """First start and last end."""
        return (
            min(slices.first for slices in self.lines.values()),
            max(slices.last for slices in self.lines.values()),
        )


def read_profile(path: Path) -> Profile:
    """The device's work by stream; without any, the operators by thread; annotations too."""
    found = Profile(path, _rank_in(path.name))
    base: Any = None
    events = False
    try:
        with _open(path) as file:
            scanner = _Scanner(file, path)
            for key in scanner.fields():
                if key == "traceEvents":
                    events = True
                    for event in scanner.items():
                        _take(event, found.lines)
                    continue
                value = scanner.value()
                if key == "baseTimeNanoseconds":
                    base = value
                elif key == "distributedInfo" and isinstance(value, dict):
                    rank = value.get("rank")
                    found.rank = rank if isinstance(rank, int) else found.rank
    except (OSError, EOFError, zlib.error) as error:
        cause = getattr(error, "strerror", None) or error
        raise CodesignError(
            f"cannot read {path}: {cause}; name a trace file of torch.profiler"
        ) from error
    if not events:
        raise CodesignError(
            f"{path} has no traceEvents: name the *.pt.trace.json[.gz] that torch.profiler wrote"
        )
    if not isinstance(base, int):
        raise CodesignError(
            f"{path} has no baseTimeNanoseconds, so its times cannot be placed: "
            "record it with a newer torch, such as vLLM 0.19 and later bring"
        )
    if any(line[0] == "device" for line in found.lines):
        found.lines = {line: s for line, s in found.lines.items() if line[0] != "host"}
    if not found.lines:
        raise CodesignError(
            f"{path} has no kernel and no operator: was the profiler stopped before any step ran?"
        )
    for slices in found.lines.values():
        slices.shift(base)
    return found


def _rank_in(name: str) -> int | None:
    match = re.search(r"rank[-_]?(\d+)", name)
    return int(match[1]) if match else None


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _take(event: Any, lines: dict[Line, Slices]) -> None:
    if not isinstance(event, dict) or event.get("ph") != "X":
        return
    category = event.get("cat")
    if category in DEVICE:
        kind = "device"
    elif category in DEVICE_NOTES:
        kind = "annotations"
    elif category in HOST:
        kind = "host"
    else:
        return
    start, length = event.get("ts"), event.get("dur")
    if not isinstance(start, int | Decimal) or not isinstance(length, int | Decimal):
        return  # kineto writes both on every event it knows the times of
    line: Line = (kind, event.get("pid", 0), event.get("tid", 0))
    slices = lines.get(line)
    if slices is None:
        slices = lines[line] = Slices()
    at = int(start * 1000)
    slices.add(at, at + int(length * 1000), str(event.get("name", "")))


class _Scanner:
    """A JSON object read piece by piece: its keys in order, then either value or items."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._ended = False
        # Exact: a double does not hold microseconds of Unix time with three decimals.
        self._decoder = json.JSONDecoder(parse_float=Decimal)

    def _more(self) -> bool:
        chunk = "" if self._ended else self._file.read(_CHUNK)
        self._ended = not chunk
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return not self._ended

    def _fail(self, cause: str) -> CodesignError:
        return CodesignError(
            f"{self._path} is not a whole Chrome trace ({cause}): "
            "name the *.pt.trace.json[.gz] that torch.profiler wrote, after it was stopped"
        )

    def _next(self) -> str:
        """The next character that is no white space; it stays."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                raise self._fail("it ends too early")

    def _expect(self, wanted: str) -> str:
        found = self._next()
        if found not in wanted:
            raise self._fail(f"{found!r} where {' or '.join(wanted)} should be")
        self._at += 1
        return found

    def value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > _LONGEST or not self._more():
                    raise self._fail(error.msg) from error
                continue
            if end < len(self._text):
                self._at = end
                return value
            # A number at the end of what was read may go on.
            if not self._more():
                self._at = len(self._text)
                return value

    def fields(self) -> Iterator[str]:
        self._expect("{")
        if self._next() == "}":
            return
        while True:
            key = self.value()
            self._expect(":")
            yield str(key)
            if self._expect(",}") == "}":
                return

    def items(self) -> Iterator[Any]:
        self._expect("[")
        if self._next() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self._expect(",]") == "]":
                return
