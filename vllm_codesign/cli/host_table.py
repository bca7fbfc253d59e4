"""The host's tables of `codesign analyze`: processes, event loops, GPUs."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis.finding import number
from vllm_codesign.analysis.host import GpuLoad, Host, Load, LoopLag, ProcessLoad
from vllm_codesign.cli.narrow_table import narrow_table

_NONE = "–"
_MS = 1_000
_GIB = 1 << 30


def host_table(host: Host | None) -> RenderableType:
    """Nothing where nothing was sampled."""
    tables: list[RenderableType] = []
    if host is not None and host.processes:
        tables.append(_processes(host.processes, host.loops))
    if host is not None and host.gpus:
        tables.append(_gpus(host.gpus))
    return Group("", *tables) if tables else Group()


def _processes(processes: tuple[ProcessLoad, ...], loops: tuple[LoopLag, ...]) -> Table:
    gil = any(process.gil for process in processes)
    table = narrow_table(
        "host (mean/max of the seconds with requests; lag p50/max, ms)",
        "process",
        "pid",
        "cores",
        "no CPU",  # threads that could run and had none
        "switches/s",
        "forced/s",
        "loop lag",
        *(["GIL"] if gil else []),
    )
    lag = {loop.pid: loop for loop in loops}
    for process in processes:
        found = lag.get(process.pid)
        table.add_row(
            Text(process.role.replace("+", " + ") or "?"),
            str(process.pid),
            _load(process.cpu, 2),
            _load(process.run_queue_wait, 2),
            _whole(process.voluntary_per_s),
            _whole(process.involuntary_per_s),
            f"{number(found.p50_s * _MS)}/{number(found.max_s * _MS)}" if found else _NONE,
            *([_load(process.gil, 2)] if gil else []),
        )
    return table


def _gpus(gpus: tuple[GpuLoad, ...]) -> Table:
    table = narrow_table(
        "GPUs (by their driver; mean/max)",
        "GPU",
        "busy, %",
        "memory, GiB",
        "of",
        "power, W",
        "°C",
    )
    for gpu in gpus:
        table.add_row(
            Text(f"{gpu.index} {gpu.name}"),
            _load(gpu.utilization, 1, 100),
            _load(gpu.memory_bytes, 1, 1 / _GIB),
            f"{gpu.memory_limit_bytes / _GIB:.1f}" if gpu.memory_limit_bytes else _NONE,
            _load(gpu.power_w, 0),
            _load(gpu.temperature_c, 0),
        )
    return table


def _load(load: Load | None, digits: int, scale: float = 1) -> str:
    if load is None:
        return _NONE
    return f"{load.mean * scale:.{digits}f}/{load.max * scale:.{digits}f}"


def _whole(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0f}"
