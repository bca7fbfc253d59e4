"""Finds requests in a capture: a table of their roots, which grows with the segments.

A row for each request is in memory (some 300 bytes); spans stay in the segments and are read
when one request is asked for. Nothing is written. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from vllm_codesign import semconv as S
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store import schema
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import (
    Reading,
    database,
    quoted,
    readable,
    segments,
    steps_in,
    traces_in,
)

_BATCH = 64
"""Segments taken in by one query."""


class Order(StrEnum):
    """How a list is sorted."""

    SLOWEST = "slowest"
    LATEST = "latest"
    EARLIEST = "earliest"


_ORDER_BY = {
    Order.SLOWEST: '"Duration" DESC, "TraceId", "SpanId"',
    Order.LATEST: '"Start" DESC, "TraceId", "SpanId"',
    Order.EARLIEST: '"Start", "TraceId", "SpanId"',
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One request in a list; times in ns, `start_ns` since the Unix epoch."""

    trace_id: int
    span_id: int
    start_ns: int
    duration_ns: int
    name: str
    outcome: str
    session: str
    scenario: str


@dataclass(frozen=True, slots=True)
class Found:
    """Some entries, and how many there are in all."""

    entries: tuple[Entry, ...]
    total: int


def _attribute(attribute: S.Attribute) -> str:
    # A list in every version of DuckDB; `map[key]` is one in old versions alone.
    return f"""map_extract("SpanAttributes", '{attribute.key}')[1]"""


_ENTRY = '"TraceId", "SpanId", "Start", "Duration", "Name", "Outcome", "Session", "Scenario"'
_INSERT = f"""
    INSERT OR IGNORE INTO requests
    SELECT "TraceId", "SpanId", epoch_ns("Timestamp"), "Duration", "SpanName",
        coalesce({_attribute(S.OUTCOME)}, 'unknown'), coalesce({_attribute(S.SESSION_ID)}, ''),
        coalesce("Scenario", ''), filename
    FROM new LEFT JOIN scenarios USING ("TraceId")
    WHERE "SpanKind" = 'Server' OR ("SpanName" = '{S.ENGINE_REQUEST.name}' AND NOT EXISTS (
        SELECT 1 FROM new AS other
        WHERE other."TraceId" = new."TraceId" AND other."SpanId" = new."ParentSpanId"))
"""
_INSERT_IDS = f"""
    INSERT INTO engine_requests
    SELECT DISTINCT "TraceId", {_attribute(S.REQUEST_ID)}, filename FROM new
    WHERE {_attribute(S.REQUEST_ID)} IS NOT NULL
"""


class Index:
    """The requests of one capture. `scenarios`: names by trace id, from a client's results."""

    def __init__(self, capture: Capture, scenarios: Mapping[int, str] | None = None) -> None:
        self.capture = capture
        self.reading = Reading()
        """What could not be read so far."""
        self.files: list[Path] = []
        self.version = 0
        """Grows when segments come or go: their number may stay the same."""
        self._bad: set[Path] = set()
        self._connection = database()
        self._connection.execute(
            'CREATE TABLE requests ("TraceId" VARCHAR, "SpanId" VARCHAR, "Start" BIGINT, '
            '"Duration" UBIGINT, "Name" VARCHAR, "Outcome" VARCHAR, "Session" VARCHAR, '
            '"Scenario" VARCHAR, "File" VARCHAR, PRIMARY KEY ("TraceId", "SpanId"))'
        )
        self._connection.execute(
            'CREATE TABLE engine_requests ("TraceId" VARCHAR, "RequestId" VARCHAR, "File" VARCHAR)'
        )
        self._connection.execute(
            'CREATE TABLE scenarios ("TraceId" VARCHAR PRIMARY KEY, "Scenario" VARCHAR)'
        )
        named = scenarios or {}
        # Row by row it takes a millisecond each.
        rows = pa.table(
            {
                "TraceId": pa.array([f"{trace_id:032x}" for trace_id in named], pa.string()),
                "Scenario": pa.array(list(named.values()), pa.string()),
            }
        )
        self._connection.register("_scenarios", rows)
        self._connection.execute("INSERT INTO scenarios SELECT * FROM _scenarios")
        self._connection.unregister("_scenarios")

    def close(self) -> None:
        self._connection.close()

    def refresh(self) -> bool:
        """Take in segments that have come, forget those that retention took; True if any."""
        there = segments(self.capture.traces)
        gone = set(self.files) - set(there)
        known = set(self.files) | self._bad
        new = readable([path for path in there if path not in known], schema.TRACES, self.reading)
        self._bad |= set(there) - known - set(new)
        for path in gone:
            for table in ("requests", "engine_requests"):
                self._connection.execute(f'DELETE FROM {table} WHERE "File" = ?', [str(path)])
        self.files = [path for path in self.files if path not in gone]
        for start in range(0, len(new), _BATCH):
            self._take(new[start : start + _BATCH])
        changed = bool(gone or new)
        self.version += changed
        return changed

    def _take(self, files: list[Path]) -> None:
        names = ", ".join(quoted(str(path)) for path in files)
        self._connection.execute("BEGIN")
        try:
            self._connection.execute(
                "CREATE OR REPLACE TEMP VIEW new AS "
                f"SELECT * FROM read_parquet([{names}], filename = true)"
            )
            self._connection.execute(_INSERT)
            self._connection.execute(_INSERT_IDS)
            self._connection.execute("COMMIT")
        except duckdb.Error as error:
            self._connection.execute("ROLLBACK")
            if len(files) > 1:
                for path in files:
                    self._take([path])
                return
            self._bad.add(files[0])
            cause = str(error).splitlines()[0]
            self.reading.unreadable.append(f"{files[0]} left out: {cause}")
            return
        self.files.extend(files)

    @property
    def total(self) -> int:
        return self._count("SELECT count(*) FROM requests")

    @property
    def outcomes(self) -> dict[str, int]:
        rows = self._connection.execute(
            'SELECT "Outcome", count(*) FROM requests GROUP BY 1 ORDER BY 2 DESC, 1'
        ).fetchall()
        return dict(rows)

    def _count(self, query: str, parameters: list[Any] | None = None) -> int:
        row = self._connection.execute(query, parameters or []).fetchone()
        return int(row[0]) if row is not None else 0

    def search(
        self,
        text: str = "",
        outcome: str = "",
        order: Order = Order.SLOWEST,
        limit: int = 50,
        offset: int = 0,
    ) -> Found:
        """Requests whose trace, span, session, scenario or engine request id holds `text`."""
        where, parameters = ["true"], []
        if outcome:
            where.append('"Outcome" = ?')
            parameters.append(outcome)
        if text:
            where.append(
                """(contains("TraceId", lower(?)) OR contains("SpanId", lower(?))
                OR contains(lower("Session"), lower(?)) OR contains(lower("Scenario"), lower(?))
                OR "TraceId" IN (
                    SELECT "TraceId" FROM engine_requests
                    WHERE contains(lower("RequestId"), lower(?))))"""
            )
            parameters += [text] * 5
        chosen = f"FROM requests WHERE {' AND '.join(where)}"
        rows = self._connection.execute(
            f"SELECT {_ENTRY} {chosen} ORDER BY {_ORDER_BY[order]} LIMIT {limit:d} "
            f"OFFSET {offset:d}",
            parameters,
        ).fetchall()
        return Found(tuple(map(_entry, rows)), self._count(f"SELECT count(*) {chosen}", parameters))

    def sample(
        self, most: int, slowest: int, ended_otherwise: int, scenario: str | None = None
    ) -> Found:
        """At most `most`: of each scenario the slowest, then those that did not complete, then
        an even sample over time, slowest first in each. Of one scenario alone where it is named."""
        parameters = [] if scenario is None else [scenario]
        where = "true" if scenario is None else '"Scenario" = ?'
        total = self._count(f"SELECT count(*) FROM requests WHERE {where}", parameters)
        rows = self._connection.execute(
            f"""
            WITH ranked AS (
                SELECT *,
                    row_number() OVER (
                        PARTITION BY "Scenario" ORDER BY "Duration" DESC, "SpanId"
                    ) AS place,
                    row_number() OVER (
                        PARTITION BY "Outcome" = 'completed' ORDER BY "Start", "SpanId"
                    ) AS turn
                FROM requests WHERE {where}),
            graded AS (
                SELECT *, CASE
                    WHEN place <= {slowest:d} THEN 0
                    WHEN "Outcome" <> 'completed' AND turn <= {ended_otherwise:d} THEN 1
                    ELSE 2 END AS grade
                FROM ranked),
            rest AS (
                SELECT *, row_number() OVER (PARTITION BY grade ORDER BY "Start", "SpanId") AS nth,
                    count(*) OVER (PARTITION BY grade) AS many,
                    greatest({most:d} - (SELECT count(*) FROM graded WHERE grade < 2), 0) AS room
                FROM graded)
            SELECT {_ENTRY} FROM rest
            -- The nth of many is taken when the share of the room is reached anew.
            WHERE grade < 2 OR (nth * room) // many > ((nth - 1) * room) // many
            ORDER BY grade, "Duration" DESC, "SpanId" LIMIT {most:d}
            """,
            parameters,
        ).fetchall()
        return Found(tuple(map(_entry, rows)), total)

    def trace(self, trace_id: int, span_id: int) -> RequestTrace | None:
        """One request with its spans."""
        found = traces_in(list(self.files), self.capture.path, self.reading, {trace_id})
        return next((t for t in found if t.root.span_id == span_id), None)

    def steps(self, trace: RequestTrace) -> list[Step]:
        """The engine's steps that served a request, in order."""
        root = trace.root
        window = (root.start_ns, root.end_ns)
        found = steps_in(list(self.files), self.capture.path, self.reading, {root.span_id}, window)
        return sorted(found, key=lambda step: step.schedule)


def _entry(row: tuple[Any, ...]) -> Entry:
    trace_id, span_id, start_ns, duration_ns, name, outcome, session, scenario = row
    return Entry(
        int(trace_id, 16),
        int(span_id, 16),
        start_ns,
        int(duration_ns),
        name,
        outcome,
        session,
        scenario,
    )
