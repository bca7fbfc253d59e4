"""`codesign dump`: every record of a capture."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple

import click

from vllm_codesign import settings
from vllm_codesign.exporter.keep import read_records
from vllm_codesign.exporter.outcome import REASONS
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.fields import PARTS, As, Part
from vllm_codesign.recorder.layout import (
    DECODING,
    REASON_NUMBERS,
    ROUTES,
    TEXT_KINDS,
    DeviceWork,
    Ending,
    Field,
    Job,
    Kind,
    KVCall,
    KVDone,
)
from vllm_codesign.recorder.reader import Record
from vllm_codesign.store.capture import Capture, latest, resolve

_KINDS = {int(kind): kind for kind in Kind}

Value = int | float | str | bool | list[int] | None


class Row(NamedTuple):
    """A record and where it stood; `time` is that of the last stamp seen up to it."""

    time: int
    pid: int
    record: Record


@click.command("dump")
@click.argument("capture", required=False, type=click.Path(path_type=Path))
@click.option("--kind", "kinds", multiple=True, metavar="NAME", help="Only this kind; repeatable.")
@click.option("--key", metavar="HEX", help="Only records of this request.")
@click.option("--pid", type=int, help="Only records of this process.")
@click.option("--sorted", "in_order", is_flag=True, help="By time, all processes together.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, raw numbers.")
def command(
    capture: Path | None,
    kinds: tuple[str, ...],
    key: str | None,
    pid: int | None,
    in_order: bool,
    as_json: bool,
) -> None:
    """Print every record of CAPTURE as vLLM's processes wrote it.

    CAPTURE is a capture, a store or a demo folder; without it the newest capture of the
    configured store is taken. Records are kept where the server runs with
    CODESIGN_KEEP_RECORDS=1. Times are seconds from the start of the capture (with --json
    nanoseconds of the host's monotonic clock).

    \b
    codesign dump --sorted | less
    codesign dump out/demo --kind eng_scheduled --kind eng_finished
    codesign dump --key 7c21d0a49be6f013 --json | jq .
    """
    wanted = _predicate(_kinds(kinds), _key(key))
    found = _capture(capture)
    files = _files(found, pid)
    damage: list[str] = []
    streams = [_rows(path, damage) for path in files]
    rows: Iterator[Row] = merge(*streams, key=lambda r: r.time) if in_order else _chain(streams)
    printer = _json_line if as_json else _Text(_origin(found)).line
    for row in rows:
        if wanted(row.record):
            click.echo(printer(row))
    if damage:
        raise CodesignError("; ".join(damage) + "; what could be read is printed")


def _capture(path: Path | None) -> Capture:
    if path is not None:
        return resolve(path)
    chosen, _ = settings.load()
    if chosen.store is None:
        raise CodesignError("there is no store (CODESIGN_STORE is empty): name a capture")
    return latest(chosen.store)


def _files(capture: Capture, pid: int | None) -> list[Path]:
    files = sorted((capture.path / "records").glob("*.records"))
    if not files:
        raise CodesignError(
            f"{capture.path} holds no raw records: run the server with CODESIGN_KEEP_RECORDS=1"
        )
    if pid is None:
        return files
    names = [path.stem for path in files]
    if str(pid) not in names:
        raise CodesignError(f"no records of process {pid}: there are those of {', '.join(names)}")
    return [path for path in files if path.stem == str(pid)]


def _rows(path: Path, damage: list[str]) -> Iterator[Row]:
    """Records of one process, in the order in which it wrote them; that is almost by time."""
    time = 0
    pid = int(path.stem) if path.stem.isdigit() else 0
    try:
        for record in read_records(path):
            time = max(time, _time(record))
            yield Row(time, pid, record)
    except (OSError, ValueError) as error:
        damage.append(str(error))


def _time(record: Record) -> int:
    """The latest stamp on the record: about when it was written; 0 where it has none."""
    stamps = (part.of(record) for part in _parts(record) if part.meaning is As.TIME)
    return max(stamps, default=0)


def _parts(record: Record) -> tuple[Part, ...]:
    """Empty for a kind that this version does not know."""
    kind = _KINDS.get(record.kind)
    return PARTS[kind] if kind is not None else ()


def _chain(streams: list[Iterator[Row]]) -> Iterator[Row]:
    for stream in streams:
        yield from stream


def _kinds(names: tuple[str, ...]) -> frozenset[int]:
    known = {kind.name.lower(): kind for kind in Kind}
    for name in names:
        if name.lower() not in known:
            raise CodesignError(f"--kind {name}: no such kind; there are {', '.join(known)}")
    return frozenset(known[name.lower()] for name in names)


def _key(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text, 16)
    except ValueError:
        raise CodesignError(f"--key {text}: not a hexadecimal key as `dump` prints it") from None


def _predicate(kinds: frozenset[int], key: int | None) -> Callable[[Record], bool]:
    def wanted(record: Record) -> bool:
        return (not kinds or record.kind in kinds) and (key is None or record.key == key)

    return wanted


def _origin(capture: Capture) -> int:
    """The monotonic time that text output counts from; 0 where `run.json` does not say."""
    try:
        anchors = capture.load().anchors
    except CodesignError:
        return 0  # records are there to be read all the same
    return anchors[0].monotonic_ns if anchors else 0


def values(record: Record) -> dict[str, Value]:
    """The record's numbers by their names, read as what they mean; times stay numbers."""
    if record.kind not in _KINDS:
        return {name: getattr(record, name) for name in ("s", "c", "t0", "t1", "a", "b")}
    out: dict[str, Value] = {
        part.name: _value(part.meaning, part.of(record)) for part in _parts(record)
    }
    if record.kind in (Kind.TEXT, Kind.KV_NAME):
        out["text"] = record.payload.rstrip(b"\0").decode("utf-8", "backslashreplace")
    elif record.kind in TEXT_KINDS:
        out.update(_eight(record))
    return out


def _eight(record: Record) -> dict[str, Value]:
    """What a record of eight numbers holds."""
    numbers = list(struct.unpack("<8I", record.payload))
    if record.kind == Kind.ITL:
        return {"us": numbers[: record.c & 0xFF]}
    if record.kind == Kind.STEP_DECODES:
        return {"numbers": numbers[: record.s]}
    tokens = numbers[1 : 2 * record.s : 2]
    return {
        "numbers": numbers[0 : 2 * record.s : 2],
        "tokens": [each & ~DECODING for each in tokens],
        "decoding": [each // DECODING for each in tokens],
    }


def _value(meaning: As, number: int) -> Value:
    match meaning:
        case As.ID:
            return f"{number & 0xFFFFFFFFFFFFFFFF:016x}"
        case As.DOUBLE:
            return None if number == -1 else _double(number)
        case As.FLAG:
            return bool(number)
        case As.ENDING:
            return "+".join(e.name.lower() for e in Ending if e & number) or "none"
    names = _NAMES.get(meaning)
    if names is None:
        return number
    return names[number] if 0 <= number < len(names) and names[number] else f"number {number}"


def _double(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return value


_NAMES: dict[As, tuple[str, ...]] = {
    As.ROUTE: tuple(path for path, _ in ROUTES),
    As.LEVEL: settings.LEVELS,
    As.JOB: ("", *(job.name.lower() for job in Job)),
    As.WORK: ("", *(work.name.lower() for work in DeviceWork)),
    As.CALL: ("", *(call.name.lower() for call in KVCall)),
    As.DONE: ("", *(done.name.lower() for done in KVDone)),
    As.REASON: ("none", *REASON_NUMBERS),
    As.FINISH: ("none", *REASONS),
    As.FIELD: ("", *(field.name.lower() for field in Field)),
}


def _kind_name(record: Record) -> str:
    kind = _KINDS.get(record.kind)
    return f"kind_{record.kind}" if kind is None else kind.name.lower()


def _json_line(row: Row) -> str:
    record = row.record
    document: dict[str, Any] = {
        "pid": row.pid,
        "number": record.number,
        "time_ns": row.time,
        "kind": _kind_name(record),
        "key": f"{record.key:016x}",
        **values(record),
    }
    return json.dumps(document, ensure_ascii=False)


class _Text:
    """Lines for people; the first record is the origin of time where the capture names none."""

    def __init__(self, origin: int) -> None:
        self._origin = origin

    def line(self, row: Row) -> str:
        record = row.record
        self._origin = self._origin or row.time
        return (
            f"{row.pid:>8} {record.number:>8} {self._seconds(row.time):>14} "
            f"{_kind_name(record):<16} {record.key:016x} {self._words(record)}"
        )

    def _words(self, record: Record) -> str:
        meanings = {part.name: part.meaning for part in _parts(record)}
        words = []
        for name, value in values(record).items():
            meaning = meanings.get(name)
            if meaning is As.TIME and isinstance(value, int):
                text = self._seconds(value) if value else "never"
            elif meaning is As.LENGTH and isinstance(value, int):
                text = f"{value / 1e6:.3f}ms"
            elif name == "text" or value is None or isinstance(value, bool):
                text = json.dumps(value, ensure_ascii=False)
            else:
                text = str(value)
            words.append(f"{name}={text}")
        return " ".join(words)

    def _seconds(self, time: int) -> str:
        return f"{(time - self._origin) / 1e9:.6f}"
