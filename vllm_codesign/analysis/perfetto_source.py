"""What a Perfetto trace is made of, and how it is read from a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from vllm_codesign import semconv as S
from vllm_codesign.analysis.host_clock import ClockReading
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture, RunInfo
from vllm_codesign.store.reader import Reading, connect, read_steps, read_traces

Sample = tuple[int, str, str, float, Mapping[str, str]]
"""Of a series: Unix time in ns, name, unit, value, attributes."""

PID = "process.pid"
_FETCH = 4_096


@dataclass(frozen=True, slots=True)
class Source:
    """What is drawn. `requests` is called twice."""

    requests: Callable[[], Iterable[RequestTrace]]
    steps: Iterable[Step] = ()
    samples: Iterable[Sample] = ()
    readings: tuple[ClockReading, ...] = ()
    """Of both clocks; where there is none, a request's own stands for it."""
    pids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Processes by role: `api_server`, `engine_core`, `worker`."""
    ranks: Mapping[int, int] = field(default_factory=dict)
    """Which process a rank was, as far as it is known."""


def source_of(capture: Capture, run: RunInfo | None, met: Reading) -> Source:
    """All of a capture. Without `run.json` the processes' ids are not known, and no more."""
    return Source(
        requests=lambda: read_traces(capture, met),
        steps=read_steps(capture, met),
        samples=_samples(capture, met),
        readings=tuple((a.monotonic_ns, a.unix_ns) for a in run.anchors) if run else (),
        pids=_pids(run) if run else {},
        ranks=_ranks(capture, met),
    )


def _pids(run: RunInfo) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for row in run.hooks:
        for role in row.role.split("+"):
            found.setdefault(role, set()).add(row.pid)
    return {role: tuple(sorted(pids)) for role, pids in found.items()}


def _ranks(capture: Capture, met: Reading) -> dict[int, int]:
    """As the samples of the workers' calls tell: they have both rank and process."""
    found: dict[int, set[int]] = {}
    for (attributes,) in _rows(capture, met, "SELECT DISTINCT attributes FROM series"):
        rank, pid = attributes.get(S.RANK.key, ""), attributes.get(PID, "")
        if rank.isdigit() and pid.isdigit():
            found.setdefault(int(rank), set()).add(int(pid))
    return {rank: pids.pop() for rank, pids in found.items() if len(pids) == 1}


def _samples(capture: Capture, met: Reading) -> Iterator[Sample]:
    columns = "epoch_ns(time_ns), name, unit, value, attributes"
    yield from _rows(capture, met, f"SELECT {columns} FROM series ORDER BY name, time_ns")


def _rows(capture: Capture, met: Reading, query: str) -> Iterator[Any]:
    with connect(capture, met) as connection:
        try:
            found = connection.execute(query)
            while rows := found.fetchmany(_FETCH):
                yield from rows
        except duckdb.Error as error:
            cause = str(error).splitlines()[0]
            raise CodesignError(
                f"cannot read {capture.series}: {cause}; move the damaged segment away"
            ) from error
