"""How late the API servers' event loops run what is due, from the ticks that they record."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_codesign import semconv
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.model.trace import AttributeValue
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record

_S = 1e-9


class LoopLag:
    """Mean and maximum per process since the last sample; nothing where nothing ticked.

    A loop that stands still for seconds gives one late tick when it runs again: the maximum
    shows it, the mean over few ticks less so.
    """

    KINDS = frozenset((Kind.LOOP_LAG,))

    def __init__(self) -> None:
        self._lags_ns: dict[int, list[int]] = {}

    def take(self, pid: int, record: Record) -> None:
        """One tick."""
        # A timer may run early by as much as its loop's clock is coarse.
        self._lags_ns.setdefault(pid, []).append(max(0, record.t1 - record.t0))

    def sample(self, now_ns: int) -> Iterator[Sample]:
        lags_ns, self._lags_ns = self._lags_ns, {}
        for pid, lags in lags_ns.items():
            for statistic, value in (("max", max(lags)), ("mean", sum(lags) / len(lags))):
                attributes: dict[str, AttributeValue] = {
                    semconv.PROCESS_PID.key: pid,
                    semconv.STATISTIC.key: statistic,
                }
                yield Sample(now_ns, semconv.EVENT_LOOP_LAG, value * _S, attributes)
