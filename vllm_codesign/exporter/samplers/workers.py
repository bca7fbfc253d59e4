"""Totals of the workers' calls, sampled once a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vllm_codesign import semconv
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.recorder.layout import DEVICE_CLOCK, Kind
from vllm_codesign.recorder.reader import Record


@dataclass(slots=True)
class _Rank:
    busy_ns: int = 0
    steps: int = 0
    tokens: int = 0


class Workers:
    """Per rank: how much of the last interval its calls took, and how many steps they were."""

    KINDS = frozenset((Kind.WORKER_EXECUTE, Kind.WORKER_SAMPLE))

    def __init__(self, since_ns: int) -> None:
        self._ranks: dict[tuple[int, int], _Rank] = {}
        self._since_ns = since_ns

    def take(self, pid: int, record: Record) -> None:
        """A call of the worker with process id `pid`."""
        rank = self._ranks.setdefault((pid, record.s & ~DEVICE_CLOCK), _Rank())
        rank.busy_ns += record.t1 - record.t0
        if record.kind == Kind.WORKER_EXECUTE:
            rank.steps += 1
            rank.tokens += record.c

    def sample(self, now_ns: int) -> Iterator[Sample]:
        """Totals since the last sample, and start afresh."""
        interval_ns = max(1, now_ns - self._since_ns)
        self._since_ns = now_ns
        for (pid, number), rank in self._ranks.items():
            attributes = {semconv.RANK.key: number, semconv.PROCESS_PID.key: pid}
            for series, value in (
                (semconv.WORKER_BUSY, rank.busy_ns / interval_ns),
                (semconv.WORKER_STEPS, float(rank.steps)),
                (semconv.WORKER_TOKENS, float(rank.tokens)),
            ):
                yield Sample(now_ns, series, value, attributes)
        self._ranks = {key: _Rank() for key in self._ranks}
