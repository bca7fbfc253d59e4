"""The host beside the requests: CPU of each process, event loops, GPUs, from a capture's series.

Samples count from the start of the first request to the end of the last one, so that loading
the model and standing idle do not thin the figures; all of them where there is no request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from vllm_codesign import semconv
from vllm_codesign.analysis.stats import percentile
from vllm_codesign.semconv import Series
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import Reading, connect


@dataclass(frozen=True, slots=True)
class Load:
    """Mean and maximum of a series' samples, in its unit."""

    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """One vLLM process, all its threads together."""

    pid: int
    role: str
    cpu: Load
    """In cores."""
    run_queue_wait: Load | None
    """In threads that waited for a CPU."""
    voluntary_per_s: float | None
    involuntary_per_s: float | None
    gil: Load | None
    """Contention, with CODESIGN_GIL=1."""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """The event loop of one API server."""

    pid: int
    p50_s: float
    """Median over the seconds of their mean lag."""
    max_s: float


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU of the host, whoever used it."""

    index: int
    id: str
    name: str
    utilization: Load | None
    memory_bytes: Load | None
    memory_limit_bytes: float | None
    power_w: Load | None
    temperature_c: Load | None


@dataclass(frozen=True, slots=True)
class Host:
    """Empty tuples where nothing was sampled."""

    processes: tuple[ProcessLoad, ...]
    loops: tuple[LoopLag, ...]
    gpus: tuple[GpuLoad, ...]


_Row = tuple[str, dict[str, str], float]


def host(capture: Capture, reading: Reading | None = None) -> Host | None:
    """The figures of `capture`; None where it has no series.

    What cannot be read is named in `reading`, as by the other readers.
    """
    reading = Reading() if reading is None else reading
    again = Reading()
    try:
        rows = _rows(capture, again)
    except duckdb.Error as error:
        reading.unreadable.append(f"series of {capture.path} left out: {_first_line(error)}")
        return None
    # The readers of spans have named damaged segments of spans already.
    reading.unreadable += [line for line in again.unreadable if line not in reading.unreadable]
    found = Host(_processes(rows), _loops(rows), _gpus(rows))
    return found if found.processes or found.loops or found.gpus else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _rows(capture: Capture, reading: Reading) -> list[_Row]:
    """(series, attributes, value), of threads not: they are in their processes' rows."""
    names = [s.name for s in semconv.SERIES if s not in _NOT_SHOWN]
    with connect(capture, reading) as connection:
        window = connection.execute(
            'SELECT min("Timestamp"), '
            'max("Timestamp" + to_microseconds(CAST("Duration" // 1000 AS BIGINT))) '
            "FROM otel_traces WHERE \"SpanKind\" = 'Server'"
        ).fetchone()
        start, end = window if window is not None else (None, None)
        # The size of a GPU's memory is sampled once a minute: any time will do.
        limit = semconv.GPU_MEMORY_LIMIT.name
        inside = f"AND (time_ns BETWEEN ? AND ? OR name = '{limit}')" if start is not None else ""
        found: list[_Row] = connection.execute(
            "SELECT name, attributes, value FROM series "
            f"WHERE list_contains(?, name) AND isfinite(value) {inside} ORDER BY time_ns",
            [names, start, end] if inside else [names],
        ).fetchall()
    return [(name, dict(attributes), value) for name, attributes, value in found]


_NOT_SHOWN = frozenset(
    (
        semconv.THREAD_CPU,
        semconv.THREAD_RUN_QUEUE_WAIT,
        semconv.THREAD_CONTEXT_SWITCHES,
        semconv.WORKER_BUSY,
        semconv.WORKER_STEPS,
        semconv.WORKER_TOKENS,
        semconv.EXPORTER_CPU_TIME,
    )
)


def _values(rows: Iterable[_Row], series: Series, **wanted: str) -> dict[str, list[float]]:
    """Values of a series by process id, or by id of the GPU."""
    key = semconv.HW_ID.key if semconv.HW_ID in series.attributes else semconv.PROCESS_PID.key
    found: dict[str, list[float]] = {}
    for name, attributes, value in rows:
        if name == series.name and all(attributes.get(_KEYS[k]) == v for k, v in wanted.items()):
            found.setdefault(attributes.get(key, ""), []).append(value)
    return found


_KEYS = {"type": semconv.CONTEXT_SWITCH_TYPE.key, "statistic": semconv.STATISTIC.key}


def _load(values: list[float] | None) -> Load | None:
    return Load(sum(values) / len(values), max(values)) if values else None


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _processes(rows: list[_Row]) -> tuple[ProcessLoad, ...]:
    cpu = _values(rows, semconv.PROCESS_CPU)
    wait = _values(rows, semconv.PROCESS_RUN_QUEUE_WAIT)
    switches = semconv.PROCESS_CONTEXT_SWITCHES
    voluntary = _values(rows, switches, type="voluntary")
    involuntary = _values(rows, switches, type="involuntary")
    gil = _values(rows, semconv.GIL_CONTENTION)
    roles = {
        attributes[semconv.PROCESS_PID.key]: attributes[semconv.PROCESS_ROLE.key]
        for _, attributes, _ in rows
        if semconv.PROCESS_ROLE.key in attributes
    }
    return tuple(
        ProcessLoad(
            pid=int(pid),
            role=roles.get(pid, ""),
            cpu=Load(sum(values) / len(values), max(values)),
            run_queue_wait=_load(wait.get(pid)),
            voluntary_per_s=_mean(voluntary.get(pid)),
            involuntary_per_s=_mean(involuntary.get(pid)),
            gil=_load(gil.get(pid)),
        )
        for pid, values in sorted(cpu.items(), key=lambda item: int(item[0]))
    )


def _loops(rows: list[_Row]) -> tuple[LoopLag, ...]:
    means = _values(rows, semconv.EVENT_LOOP_LAG, statistic="mean")
    maxima = _values(rows, semconv.EVENT_LOOP_LAG, statistic="max")
    return tuple(
        LoopLag(int(pid), percentile(sorted(values), 0.5), max(maxima.get(pid, values)))
        for pid, values in sorted(means.items(), key=lambda item: int(item[0]))
    )


def _gpus(rows: list[_Row]) -> tuple[GpuLoad, ...]:
    known = {
        attributes[semconv.HW_ID.key]: attributes
        for _, attributes, _ in rows
        if semconv.HW_ID.key in attributes
    }
    series = {
        each: _values(rows, each)
        for each in (
            semconv.GPU_UTILIZATION,
            semconv.GPU_MEMORY_USAGE,
            semconv.GPU_MEMORY_LIMIT,
            semconv.HW_POWER,
            semconv.HW_TEMPERATURE,
        )
    }
    gpus = [
        GpuLoad(
            index=int(attributes.get(semconv.GPU_INDEX.key, 0)),
            id=gpu,
            name=attributes.get(semconv.HW_NAME.key, ""),
            utilization=_load(series[semconv.GPU_UTILIZATION].get(gpu)),
            memory_bytes=_load(series[semconv.GPU_MEMORY_USAGE].get(gpu)),
            memory_limit_bytes=_mean(series[semconv.GPU_MEMORY_LIMIT].get(gpu)),
            power_w=_load(series[semconv.HW_POWER].get(gpu)),
            temperature_c=_load(series[semconv.HW_TEMPERATURE].get(gpu)),
        )
        for gpu, attributes in known.items()
    ]
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))
