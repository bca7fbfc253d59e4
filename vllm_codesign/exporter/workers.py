"""Totals of the workers' calls, sampled once a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record


@dataclass(slots=True)
class _Rank:
    busy_ns: int = 0
    steps: int = 0
    tokens: int = 0


class Workers:
    """Per rank: how much of the last interval its calls took, and how many steps they were."""

    def __init__(self) -> None:
        self._ranks: dict[tuple[int, int], _Rank] = {}

    def take(self, pid: int, record: Record) -> None:
        """A call of the worker with process id `pid`."""
        rank = self._ranks.setdefault((pid, record.s), _Rank())
        rank.busy_ns += record.t1 - record.t0
        if record.kind == Kind.WORKER_EXECUTE:
            rank.steps += 1
            rank.tokens += record.c

    def sample(self, interval_ns: int) -> Iterator[tuple[str, str, float, dict[str, int]]]:
        """(name, unit, value, attributes) since the last sample, and start afresh."""
        for (pid, number), rank in self._ranks.items():
            attributes = {"codesign.worker.rank": number, "process.pid": pid}
            yield "codesign.worker.busy", "1", rank.busy_ns / interval_ns, attributes
            yield "codesign.worker.steps", "{step}", float(rank.steps), attributes
            yield "codesign.worker.tokens", "{token}", float(rank.tokens), attributes
        self._ranks = {key: _Rank() for key in self._ranks}
