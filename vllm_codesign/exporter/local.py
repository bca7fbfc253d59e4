"""The local capture of this run: segments, raw records and `run.json`.

Whatever fails here costs rows of the capture and nothing else: it is counted in
`rows_not_stored` and said in one line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_codesign import semconv
from vllm_codesign import settings as settings_module
from vllm_codesign.exporter import run_file
from vllm_codesign.exporter.keep import RecordKeeper
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import AttributeValue, RequestTrace
from vllm_codesign.recorder.reader import Record
from vllm_codesign.recorder.session import Session
from vllm_codesign.store import retention
from vllm_codesign.store.writer import SegmentWriter, SeriesWriter

logger = logging.getLogger(__name__)

SAY_AGAIN_S = 600.0
"""A full disk fails every segment, sample and `run.json`: one line says it, not one each."""

_OF_THIS_EXPORTER = frozenset(
    (
        "records",
        "requests",
        "steps",
        "spans",
        "otlp_sent",
    )
)
"""Counters that begin at 0 in each exporter; of the others shared memory knows."""


class LocalStore:
    """The capture of one session, taken up again where a killed exporter left it.

    `unsaved`: requests in the open segment, which would go with this process.
    Raises CodesignError where the store cannot be written at all.
    """

    def __init__(self, store: Path, session: Session, settings: settings_module.Settings) -> None:
        self._store = store
        self.capture, self.run = run_file.open_capture(store, session, settings)
        self._before = {
            name: count for name, count in self.run.counters.items() if name in _OF_THIS_EXPORTER
        }
        self._spans = SegmentWriter(self.capture.traces)
        self._series = SeriesWriter(self.capture.series)
        self._keeper = self._keep_records() if settings.keep_records else None
        self._said_at = 0.0
        self.unsaved = 0

    def _keep_records(self) -> RecordKeeper:
        folder = self.capture.path / "records"
        try:
            return RecordKeeper(folder)
        except OSError as error:
            raise CodesignError(f"cannot make {folder}: {error.strerror}") from error

    @contextmanager
    def _saying_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # StoreError is one
            if not self._said_at or time.monotonic() - self._said_at > SAY_AGAIN_S:
                self._said_at = time.monotonic()
                logger.error("codesign: %s", error)

    @property
    def lost(self) -> int:
        """Rows that could not be written."""
        return self._spans.lost + self._series.lost

    @property
    def segments(self) -> int:
        """Segments of spans that were closed so far."""
        return self._spans.closed

    def keep(self, pid: int, record: Record) -> None:
        """One raw record, where they are kept."""
        if self._keeper is not None:
            self._keeper.add(pid, record)

    def add(self, trace: RequestTrace, resource: Mapping[str, str]) -> None:
        """All spans of a trace."""
        # A linked trace is the rest of a request that has been counted; steps are no requests.
        self.unsaved += not trace.root.links and trace.root.name != semconv.STEP.name
        with self._saying_once():
            self._spans.add(trace.spans, resource)
        self._count_unsaved()

    def sample(
        self, at: int, name: str, unit: str, value: float, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """One sample of a series."""
        with self._saying_once():
            self._series.add(at, name, unit, value, attributes)

    def poll(self) -> None:
        """Close the segments that are due."""
        for writer in (self._spans, self._series):
            with self._saying_once():
                writer.poll()
        self._count_unsaved()

    def _count_unsaved(self) -> None:
        if not self._spans.pending:
            self.unsaved = 0

    def enforce_caps(self) -> None:
        """Remove what is too much or too old."""
        with self._saying_once():
            retention.enforce(self._store)

    def save_run(self, counters: Mapping[str, int], **changes: Any) -> None:
        """Bring `run.json` up to date; `counters` are those of this exporter."""
        total = {name: count + self._before.get(name, 0) for name, count in counters.items()}
        self.run = self.run.model_copy(update={"counters": total, **changes})
        with self._saying_once():
            self.capture.save(self.run)

    def close(self) -> None:
        """Close all segments and files; `save_run` may still be called."""
        if self._keeper is not None:
            self._keeper.close()
        for writer in (self._spans, self._series):
            with self._saying_once():
                writer.close()
        self._count_unsaved()
