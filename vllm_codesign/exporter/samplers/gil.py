"""Contention for the GIL, from the records of processes that look for it (`CODESIGN_GIL=1`)."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_codesign import semconv
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record


class Gil:
    """Per process: in what share of the looks since the last sample somebody waited for it."""

    KINDS = frozenset((Kind.GIL,))

    def __init__(self) -> None:
        self._looks: dict[int, tuple[int, int]] = {}

    def take(self, pid: int, record: Record) -> None:
        """The looks of one interval."""
        contended, looks = self._looks.get(pid, (0, 0))
        self._looks[pid] = (contended + record.a, looks + record.b)

    def sample(self, now_ns: int) -> Iterator[Sample]:
        seen, self._looks = self._looks, {}
        for pid, (contended, looks) in seen.items():
            if looks > 0:
                attributes = {semconv.PROCESS_PID.key: pid}
                yield Sample(now_ns, semconv.GIL_CONTENTION, contended / looks, attributes)
