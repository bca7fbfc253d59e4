"""What is missing: records by kind, and the counters of `run.json` that count what was lost."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.tally import LOSSES, Before
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.semconv import metrics as M

CARRIED_ON = (M.RECORDS_DROPPED, M.LOSSES)
"""The counters that do not begin anew with each exporter."""


class Losses:
    """All of them stand somewhere from the start, in the first exporter at 0: an increase from
    nothing is none to Prometheus. In the next one they stand where the one before left them."""

    def __init__(self, board: Board, before: Before) -> None:
        self._board = board
        kinds = {kind.name.lower(): 0 for kind in Kind if kind is not Kind.VOID}
        self.show({**kinds, **before.drops}, before.losses)

    def show(self, drops: Mapping[str, int], counters: Mapping[str, int]) -> None:
        """Where they stand now; `drops` by the name of the record's kind."""
        for kind, count in drops.items():
            self._board.put(M.RECORDS_DROPPED, count, kind)
        for loss in LOSSES:
            self._board.put(M.LOSSES, counters.get(loss, 0), loss)
