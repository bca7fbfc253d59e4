"""What is missing: records by kind, and the counters of `run.json` that count what was lost."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.semconv import metrics as M

LOSSES = (
    "requests_lost",
    "rows_not_stored",
    "steps_lost",
    "steps_not_stored",
    "traces_failed",
    "roots_skipped",
    "orphan_records",
    "hook_errors",
    "otlp_dropped",
    "otlp_failed",
    "metrics_failed",
)


class Losses:
    """All of them stand at 0 from the start: an increase from nothing is none to Prometheus."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.show({kind.name.lower(): 0 for kind in Kind if kind is not Kind.VOID}, {})

    def show(self, drops: Mapping[str, int], counters: Mapping[str, int]) -> None:
        """Where they stand now; `drops` by the name of the record's kind."""
        for kind, count in drops.items():
            self._board.put(M.RECORDS_DROPPED, count, kind)
        for loss in LOSSES:
            self._board.put(M.LOSSES, counters.get(loss, 0), loss)
