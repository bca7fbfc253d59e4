"""Writes segments: whole Parquet files under a final name, never half of one.

Rows are kept in memory until their segment closes, so a crash costs at most that segment.
The file is written under a temporary name in the same folder and renamed, which readers
see as one step. Nothing is forced to the disk: a process may die here, a power cut may
leave a torn file behind, and the reader tolerates one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vllm_codesign.model.trace import AttributeValue, Span
from vllm_codesign.store import schema
from vllm_codesign.store.errors import StoreError

MAX_AGE_S = 10.0
MAX_ROWS = 20_000
"""Some 15 MB in memory and 0.2 s of work at the close: short beside the 10 s in between."""

LINKS_A_ROW = 4
"""Links that count as a row: a step has one for each request in it, 300 bytes in memory each."""

Sample = tuple[int, str, str, float, Mapping[str, AttributeValue]]
Row = TypeVar("Row")


class _Segments(Generic[Row]):
    """Rows gathered into segments of one folder. One writer a folder, in one thread.

    `poll`, `close` and `_add` raise `StoreError` when a segment fails and stay quiet for further
    failures until one succeeds: the caller warns once, and `lost` has the number. The writer
    stays usable after an error.
    """

    def __init__(
        self,
        folder: Path,
        table: Callable[[list[Row]], pa.Table],
        max_age_s: float,
        max_rows: int,
        clock: Callable[[], float],
    ) -> None:
        self.folder = folder
        self.lost = 0
        """Rows that could not be written."""
        self.written = 0
        """Rows in closed segments."""
        self.closed = 0
        """Segments that were written."""
        self._table = table
        self._max_age_s = max_age_s
        self._max_rows = max_rows
        self._clock = clock
        self._rows: list[Row] = []
        self._beside = 0  # what the rows hold beside themselves, in rows
        self._opened_s = 0.0
        self._failing = False
        self._sequence = self._resume()

    def _resume(self) -> int:
        """The last number used, after what a killed predecessor left open is removed."""
        last = 0
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*.parquet"):
            number = path.name.split("-", 1)[0]
            last = max(last, int(number)) if number.isdigit() else last
        return last

    @property
    def pending(self) -> int:
        """Rows of the open segment."""
        return len(self._rows)

    def _add(self, rows: Iterable[Row], beside: int = 0) -> None:
        if not self._rows:
            self._opened_s = self._clock()
        self._rows.extend(rows)
        self._beside += beside
        if len(self._rows) + self._beside >= self._max_rows:
            self._close_segment()

    def poll(self, now_s: float | None = None) -> bool:
        """Close the segment if it is old enough; True if one was written.

        `now_s` is on the clock given at construction (monotonic seconds).
        """
        now_s = self._clock() if now_s is None else now_s
        if not self._rows or now_s - self._opened_s < self._max_age_s:
            return False
        return self._close_segment()

    def close(self) -> None:
        """Write what is left. May be called again after more rows were added."""
        if self._rows:
            self._close_segment()

    def _close_segment(self) -> bool:
        rows, self._rows = self._rows, []
        self._beside = 0
        self._sequence += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self.folder / f"{self._sequence:06d}-{stamp}.parquet"
        try:
            self._write(path, self._table(rows))
        # Arrow's own errors are all of these types; a value it cannot hold is one of the rest.
        except (OSError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            self.lost += len(rows)
            if self._failing:
                return False
            self._failing = True
            errno = error.errno if isinstance(error, OSError) else None
            cause = os.strerror(errno) if errno else str(error).split("\n")[0]
            raise StoreError(
                f"cannot write {path}: {cause}; {len(rows)} rows of the local store are lost, "
                "more may follow"
            ) from error
        self._failing = False
        self.written += len(rows)
        self.closed += 1
        return True

    def _write(self, path: Path, table: pa.Table) -> None:
        # Again each time: an operator may have emptied the store under a running server.
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            # Page checksums let the reader tell a damaged segment from a strange one.
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class SegmentWriter(_Segments[tuple[Span, Mapping[str, AttributeValue]]]):
    """Spans into `<run>/traces/`."""

    def __init__(
        self,
        folder: Path,
        max_age_s: float = MAX_AGE_S,
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folder, schema.traces_table, max_age_s, max_rows, clock)

    def add(self, spans: Iterable[Span], resource: Mapping[str, AttributeValue]) -> None:
        """Take `spans` of one resource; `service.name` is filled in from each span."""
        rows = [(span, resource) for span in spans]
        self._add(rows, sum(len(span.links) for span, _ in rows) // LINKS_A_ROW)


class SeriesWriter(_Segments[Sample]):
    """Samples into `<run>/series/`."""

    def __init__(
        self,
        folder: Path,
        max_age_s: float = MAX_AGE_S,
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folder, schema.series_table, max_age_s, max_rows, clock)

    def add(
        self,
        time_ns: int,
        name: str,
        unit: str,
        value: float,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        """Take one sample; `time_ns` is Unix time."""
        self._add([(time_ns, name, unit, value, attributes or {})])
