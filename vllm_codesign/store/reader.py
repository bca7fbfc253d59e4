"""Reads a capture with DuckDB: as a table for SQL, as request traces for analysis.

Segments appear under their final name and never change, so the list of files taken at the
start is a consistent view while a server goes on writing. A segment that cannot be read is
named and left out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vllm_codesign import semconv
from vllm_codesign.accounting.step_trace import step_of
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.store import schema
from vllm_codesign.store.capture import Capture

_ROWS = 2_048
_MEMORY = "1GB"
"""Of DuckDB; a larger sort spills to the disk."""


@dataclass
class Reading:
    """What a reader met that a report has to say."""

    unreadable: list[str] = field(default_factory=list)
    """One line for each segment that was left out."""
    rootless_spans: int = 0
    """Spans whose request is not there: still open, or its record lost."""


def connect(capture: Capture, reading: Reading | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the views `otel_traces` and `series` over the segments now there.

    Sorting spills to a temporary folder beyond 1 GB. Unreadable segments are left out and
    named in `reading`.
    """
    reading = Reading() if reading is None else reading
    connection = database()
    for view, folder, columns in (
        ("otel_traces", capture.traces, schema.TRACES),
        ("series", capture.series, schema.SERIES),
    ):
        files = readable(segments(folder), columns, reading)
        create_view(connection, view, files, columns)
    return connection


def database() -> duckdb.DuckDBPyConnection:
    """A new one, in memory."""
    spill = str(spill_folder(os.getpid()))
    return duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": spill})


def spill_folder(pid: int) -> Path:
    """Where DuckDB puts what is too much for its memory, by itself into the current folder. It
    stays behind where the process is killed."""
    return Path(tempfile.gettempdir()) / f"codesign-duckdb-{pid}"


def create_view(
    connection: duckdb.DuckDBPyConnection, view: str, files: list[Path], columns: pa.Schema
) -> None:
    """`view` over these segments; without any it has no row."""
    if not files:
        connection.register(f"_{view}_empty", columns.empty_table())
        connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM _{view}_empty")
        return
    names = ", ".join(quoted(str(path)) for path in files)
    selected = ", ".join(f'"{name}"' for name in columns.names)
    connection.execute(
        f"CREATE OR REPLACE VIEW {view} AS SELECT {selected} FROM read_parquet([{names}])"
    )


def quoted(text: str) -> str:
    """As a string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def segments(folder: Path) -> list[Path]:
    """Closed ones, oldest first."""
    return sorted(folder.glob("[!.]*.parquet"))


def readable(paths: list[Path], columns: pa.Schema, reading: Reading) -> list[Path]:
    """Segments whose footer is whole and whose columns are ours."""
    files = []
    for path in paths:
        try:
            found = pq.read_schema(path)
        except FileNotFoundError:
            continue  # retention took it since the listing
        except (OSError, pa.ArrowException) as error:
            _leave_out(path, error, reading)
            continue
        if set(columns.names) <= set(found.names):
            files.append(path)
        else:
            _leave_out(path, "its columns are not those of this version", reading)
    return files


def _leave_out(path: Path, cause: object, reading: Reading) -> None:
    reading.unreadable.append(f"{path} left out: {str(cause).splitlines()[0]}")


def _damaged(files: list[Path], reading: Reading) -> set[Path]:
    """Those of `files` that cannot be read to the end; slow, for when a query has failed."""
    bad = set()
    for path in files:
        try:
            segment = pq.ParquetFile(path, page_checksum_verification=True)
            for _ in segment.iter_batches(_ROWS):
                pass
        except FileNotFoundError:
            bad.add(path)
        except (OSError, pa.ArrowException) as error:
            bad.add(path)
            _leave_out(path, error, reading)
    return bad


def read_traces(
    capture: Capture, reading: Reading | None = None, of: Collection[int] | None = None
) -> Iterator[RequestTrace]:
    """Every request trace of the capture, in order of trace id.

    One trace is in memory at a time. Where a caller sent several requests under one trace
    id, each is a `RequestTrace` of its own. Children are in order of their start.

    `of`: only these trace ids.
    """
    reading = Reading() if reading is None else reading
    files = readable(segments(capture.traces), schema.TRACES, reading)
    yield from traces_in(files, capture.path, reading, of)


def traces_in(
    files: list[Path], path: Path, reading: Reading, of: Collection[int] | None = None
) -> Iterator[RequestTrace]:
    """The same, from segments of the capture at `path` that are known to be readable."""
    chosen = f""""TraceId" NOT IN ({_STEP_TRACES})"""
    if of is not None:
        chosen += f""" AND "TraceId" IN ({_hex(of, 32) or "''"})"""
    for _, group in groupby(_sorted_spans(files, path, reading, chosen), key=_trace_id):
        yield from _requests(list(group), reading)


def read_steps(
    capture: Capture, reading: Reading | None = None, of: Collection[int] | None = None
) -> Iterator[Step]:
    """Every engine step of the capture, in no particular order.

    `of`: only steps that served a request with one of these roots, by span id.
    """
    reading = Reading() if reading is None else reading
    files = readable(segments(capture.traces), schema.TRACES, reading)
    yield from steps_in(files, capture.path, reading, of)


def steps_in(
    files: list[Path],
    path: Path,
    reading: Reading,
    of: Collection[int] | None = None,
    window: tuple[int, int] | None = None,
) -> Iterator[Step]:
    """The same, from segments of the capture at `path` that are known to be readable.

    `window`, in Unix time, spares what lies outside it the search for `of`.
    """
    chosen = _STEP_TRACES
    if of is not None:
        chosen += f""" AND list_has_any("Links.SpanId", [{_hex(of, 16)}]::VARCHAR[])"""
    if window is not None:
        chosen += f""" AND "Timestamp" BETWEEN make_timestamp_ns({window[0]:d})
            AND make_timestamp_ns({window[1]:d})"""
    spans = _sorted_spans(files, path, reading, f""""TraceId" IN ({chosen})""")
    for _, group in groupby(spans, key=_trace_id):
        step = step_of(list({span.span_id: span for span in group}.values()))
        if step is not None:
            yield step


_STEP_TRACES = f"""SELECT "TraceId" FROM otel_traces WHERE "SpanName" = '{semconv.STEP.name}'"""


def _hex(ids: Collection[int], digits: int) -> str:
    return ", ".join(f"'{each:0{digits}x}'" for each in ids)


def _trace_id(span: Span) -> int:
    return span.trace_id


def _sorted_spans(files: list[Path], path: Path, reading: Reading, where: str) -> Iterator[Span]:
    """Spans that `where` chooses, by trace."""
    while files:
        with database() as connection:
            create_view(connection, "otel_traces", files, schema.TRACES)
            query = (
                f'SELECT * FROM otel_traces WHERE {where} ORDER BY "TraceId", "Timestamp", "SpanId"'
            )
            try:
                # Sorting reads all files before the first row comes out, so a damaged one
                # is met here, and nothing has been handed out yet.
                batches = _batches(connection, query)
                first = next(batches, None)
            except (duckdb.Error, OSError, pa.ArrowException) as error:
                bad = _damaged(files, reading)
                if not bad:
                    raise CodesignError(f"cannot read {path}: {error}") from error
                files = [path for path in files if path not in bad]
                continue
            if first is not None:
                yield from schema.spans_of(first)
            for batch in batches:
                yield from schema.spans_of(batch)
            return


def _batches(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[Any]:
    relation = connection.sql(query)
    # Newer versions of DuckDB have renamed it.
    name = "to_arrow_reader" if hasattr(relation, "to_arrow_reader") else "fetch_arrow_reader"
    return iter(getattr(relation, name)(_ROWS))


def _is_root(span: Span, by_id: dict[int, Span]) -> bool:
    """Whether `span` stands for one whole request; its own parent is the caller's, if any."""
    if span.kind == "server":
        return True
    return span.name == semconv.ENGINE_REQUEST.name and span.parent_id not in by_id


def _requests(spans: list[Span], reading: Reading) -> Iterator[RequestTrace]:
    # By id: an exporter that was killed and restarted may have written a span twice.
    by_id = {span.span_id: span for span in spans}
    children: dict[int, list[Span]] = {
        span.span_id: [] for span in by_id.values() if _is_root(span, by_id)
    }
    for span in by_id.values():
        if span.span_id in children:
            continue
        root = _root_of(span, by_id)
        if root:
            children[root].append(span)
        elif span.name in semconv.SPAN_BY_NAME:
            reading.rootless_spans += 1
    for root, below in children.items():
        yield RequestTrace(by_id[root], tuple(below))


def _root_of(span: Span, by_id: dict[int, Span]) -> int:
    """Id of the topmost request above `span`, 0 if there is none in this trace."""
    seen: set[int] = set()
    while not _is_root(span, by_id):
        if span.span_id in seen or span.parent_id not in by_id:
            return 0
        seen.add(span.span_id)
        span = by_id[span.parent_id]
    return span.span_id
