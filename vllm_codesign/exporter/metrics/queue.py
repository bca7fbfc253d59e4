"""Requests that run and wait in the schedulers now, from the records of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vllm_codesign.exporter.facts import EngineFacts
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.semconv import metrics as M


def count(board: Board, engines: Iterable[EngineFacts], gone: Collection[int]) -> None:
    """Once a second. Who lost records is left out: its end may have been among them."""
    running = waiting = 0
    for facts in engines:
        over = Kind.ENG_QUEUED not in facts.one or Kind.ENG_FINISHED in facts.one
        if over or facts.lossy or facts.engine_pid in gone:
            continue
        if _last(facts, Kind.ENG_SCHEDULED) > _last(facts, Kind.ENG_PREEMPTED):
            running += 1
        else:
            waiting += 1
    board.put(M.ENGINE_REQUESTS, running, "running")
    board.put(M.ENGINE_REQUESTS, waiting, "waiting")


def _last(facts: EngineFacts, kind: Kind) -> int:
    return max((record.t0 for record in facts.all(kind)), default=0)
