"""Gauges from the samplers: processes by role, GPUs by index, the event loops' worst lag."""

from __future__ import annotations

from collections.abc import Collection

from vllm_codesign import semconv as S
from vllm_codesign.exporter.metrics.board import Board, Values
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.model.trace import AttributeValue
from vllm_codesign.semconv import metrics as M

_OF_PROCESSES = {M.PROCESS_CORES.name: M.PROCESS_CORES, M.PROCESS_WAIT.name: M.PROCESS_WAIT}
_OF_GPUS = {metric.name: metric for metric in M.HARDWARE}
STALE_NS = 90_000_000_000
"""The size of a GPU's memory comes once a minute."""


class Sampled:
    """Takes one round of samples after the other."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._roles: dict[str, dict[str, float]] = {}
        self._lags: dict[int, dict[str, float]] = {}
        self._gpus: dict[str, dict[Values, Sample]] = {}

    def take(self, sample: Sample) -> None:
        """One sample of this round."""
        name, of = sample.series.name, sample.attributes
        if name in _OF_PROCESSES:
            roles = self._roles.setdefault(name, {})
            role = str(of.get(S.PROCESS_ROLE.key, "unknown"))
            roles[role] = roles.get(role, 0.0) + sample.value
        elif name == M.LOOP_LAG.name:
            pid = of[S.PROCESS_PID.key]
            assert isinstance(pid, int)
            self._lags.setdefault(pid, {})[str(of[S.STATISTIC.key])] = sample.value
        elif name == M.EXPORTER_CPU.name:
            self._board.put(M.EXPORTER_CPU, round(sample.value * 1e9))
        elif name in _OF_GPUS:
            values = tuple(_plain(of.get(a.key)) for a in _OF_GPUS[name].attributes)
            self._gpus.setdefault(name, {})[values] = sample

    def show(self, now_ns: int, running: Collection[int]) -> None:
        """The round is over. A loop that stands still ticks not at all: its last lag stays."""
        for name, metric in _OF_PROCESSES.items():
            roles = self._roles.get(name, {})
            self._board.put_all(metric, {(role,): cores for role, cores in roles.items()})
        self._roles = {}
        self._lags = {pid: lags for pid, lags in self._lags.items() if pid in running}
        worst: dict[Values, float] = {}
        for lags in self._lags.values():
            for statistic, lag in lags.items():
                worst[(statistic,)] = max(lag, worst.get((statistic,), 0.0))
        self._board.put_all(M.LOOP_LAG, worst)
        for name, metric in _OF_GPUS.items():
            gpus = self._gpus.get(name, {})
            for values, sample in list(gpus.items()):
                if now_ns - sample.at_ns > STALE_NS:
                    del gpus[values]
            self._board.put_all(metric, {values: each.value for values, each in gpus.items()})


def _plain(value: AttributeValue | None) -> str | int | None:
    return value if isinstance(value, str | int) else None
