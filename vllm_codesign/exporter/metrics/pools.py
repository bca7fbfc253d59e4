"""The renderer pools, from the records of their jobs: busy threads, and the longest queue."""

from __future__ import annotations

from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.recorder.layout import Job, Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.semconv import metrics as M


class Pools:
    """A job is told when it has ended, so the queue is as its job found it, a little later."""

    KINDS = frozenset((Kind.JOB,))

    def __init__(self, board: Board) -> None:
        self._board = board
        self._threads: dict[int, int] = {}
        self._longest = 0
        board.add(M.POOL_BUSY, 0)

    def take(self, pid: int, record: Record) -> None:
        """A job of API server `pid`."""
        self._board.add(M.POOL_BUSY, max(record.a - record.t1, 0))
        if record.s == Job.TOKENIZE or pid not in self._threads:
            # In 0.19 templates have a pool of their own, and the tokenizer is what is short.
            self._threads[pid] = record.c >> 16
        self._longest = max(self._longest, record.c & 0xFFFF)

    def look(self, gone: frozenset[int]) -> None:
        """Once a second."""
        for pid in gone:
            self._threads.pop(pid, None)
        if self._threads:
            self._board.put(M.POOL_THREADS, sum(self._threads.values()))
            self._board.put(M.POOL_QUEUE, self._longest)
        self._longest = 0
