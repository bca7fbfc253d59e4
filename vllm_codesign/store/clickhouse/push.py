"""Loads a capture's segments into the table: as they are, Parquet into columns of the same names.

A segment is a few thousand rows and goes in as one insert, which ClickHouse takes whole or not at
all. It is looked for first: by the ids of its first, middle and last span, within its own time, so
that only few parts are read. What is there is not sent again; a table that remembers tokens of
inserts would refuse it besides. Should a row come in twice all the same, the queries count it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store import schema
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.clickhouse.client import Client
from vllm_codesign.store.clickhouse.table import check

_PRESENT = """SELECT toInt64(count(DISTINCT SpanId)) AS found FROM {table:Identifier}
WHERE Timestamp >= fromUnixTimestamp64Nano({first:Int64})
    AND Timestamp <= fromUnixTimestamp64Nano({last:Int64})
    AND SpanId IN ({a:String}, {b:String}, {c:String})"""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a capture's segments."""

    segments: int
    rows: int
    present: int
    """Segments that were there already."""
    left_out: tuple[str, ...]
    """One line for each segment that cannot be read."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a file holds, without its attributes."""

    rows: int
    first_ns: int
    last_ns: int
    span_ids: tuple[str, str, str]


def push(
    capture: Capture, client: Client, progress: Callable[[int, int], None] = lambda done, of: None
) -> Pushed:
    """Load every closed segment of `capture`; `progress` is told how many are done, of how many.

    Raises `CodesignError` where the table is not as it should be or the server refuses; segments
    before that one are in then, and a second try goes on from there.
    """
    check(client)
    files = sorted(capture.traces.glob("[!.]*.parquet"))
    if not files:
        raise CodesignError(
            f"no segment in {capture.path} yet: they close after 10 s; send requests or wait"
        )
    columns = ", ".join(f'"{name}"' for name in schema.TRACES.names)
    statement = f"INSERT INTO `{client.target.table}` ({columns}) FORMAT Parquet"
    sent = rows = present = 0
    left_out: list[str] = []
    for number, file in enumerate(files):
        progress(number, len(files))
        try:
            segment = _look(file)
        except FileNotFoundError:
            continue  # retention took it since the listing
        except (OSError, pa.ArrowException, KeyError) as error:
            left_out.append(f"{file} left out: {str(error).splitlines()[0]}")
            continue
        if segment is None:
            continue
        if _present(client, segment):
            present += 1
            continue
        client.insert_parquet(statement, file, f"{capture.path.name}/{file.name}")
        sent += 1
        rows += segment.rows
    progress(len(files), len(files))
    return Pushed(sent, rows, present, tuple(left_out))


def _look(file: Path) -> Segment | None:
    table = pq.read_table(file, columns=["Timestamp", "SpanId"])
    if not table.num_rows:
        return None
    times = table.column("Timestamp").cast(pa.int64())
    ids = table.column("SpanId")
    middle, last = table.num_rows // 2, table.num_rows - 1
    return Segment(
        table.num_rows,
        pc.min(times).as_py(),
        pc.max(times).as_py(),
        (ids[0].as_py(), ids[middle].as_py(), ids[last].as_py()),
    )


def _present(client: Client, segment: Segment) -> bool:
    a, b, c = segment.span_ids
    asked: dict[str, str | int] = {
        "table": client.target.table,
        "first": segment.first_ns,
        "last": segment.last_ns,
        "a": a,
        "b": b,
        "c": c,
    }
    (row,) = client.query(_PRESENT, asked)
    return bool(row["found"] == len(set(segment.span_ids)))
