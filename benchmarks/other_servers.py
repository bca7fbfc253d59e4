"""For information: servers without the plugin, and with vLLM's own tracing, beside ours.

Two servers of the same kind differ by some percent (facts of memory layout and of timing
that no round averages out), so what stands here shows orders of magnitude, not single
percents; `live_rounds` is for those.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.intervals import Interval, median_interval
from benchmarks.live_rounds import SETTLE_S
from benchmarks.load import LoadProcess
from benchmarks.procfs import cpu_time, cpu_used
from benchmarks.served import Traced, server

WITHOUT = "without the plugin"
VLLM_TRACING = "with vLLM's own tracing"
NO_PLUGIN = "none-of-them"
_SPIN_S = 1.2
"""EngineCore and its workers spin for a second after the last step (shm_broadcast)."""


@dataclass(frozen=True, slots=True)
class Other:
    """One server's API process: CPU time per request, and over that of `WITHOUT`."""

    cpu_ms: Interval
    ratio: Interval
    requests_per_s: Interval


def compare(
    model: Path,
    out: Path,
    ours: tuple[str, int, Traced],
    load: LoadProcess,
    rounds: int,
    requests: int,
    progress: Callable[[str], None],
) -> dict[str, Other]:
    """Start both, load all in turn, in an order drawn anew in each round; `ours` is url, pid,
    session of the server that is up already."""
    from tests.support.otlp_receiver import GrpcReceiver

    url, pid, session = ours
    with ExitStack() as stack:
        sink = stack.enter_context(GrpcReceiver())
        without = stack.enter_context(server(model, out, "without", NO_PLUGIN))
        tracing = stack.enter_context(
            server(
                model,
                out,
                "vllm-tracing",
                NO_PLUGIN,
                ["--otlp-traces-endpoint", sink.endpoint, "--collect-detailed-traces", "all"],
            )
        )
        served = {
            "plugin, off": (url, pid),
            "plugin, request": (url, pid),
            WITHOUT: (without.url, without.pid),
            VLLM_TRACING: (tracing.url, tracing.pid),
        }
        cpu: dict[str, list[float]] = {name: [] for name in served}
        rate: dict[str, list[float]] = {name: [] for name in served}
        for number, name in _turns(list(served), rounds):
            if name.startswith("plugin"):
                session.set_level(name.rpartition(" ")[2])
            address, api_pid = served[name]
            before = cpu_time(api_pid)
            result = load.run(address, requests, f"other{number}")
            spent = cpu_used(before, cpu_time(api_pid)).ns
            if number >= len(served):  # the first round warms up
                cpu[name].append(spent / 1e6 / requests)
                rate[name].append(requests / result.wall_s)
            time.sleep(max(SETTLE_S, _SPIN_S))
        progress(f"{len(sink.received.spans)} spans of vLLM's own came in")
    session.set_level("request")
    base = cpu[WITHOUT]
    return {
        name: Other(
            median_interval(cpu[name]),
            median_interval([a / b for a, b in zip(cpu[name], base, strict=True)]),
            median_interval(rate[name]),
        )
        for name in served
    }


def _turns(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    source = random.Random(0)
    for turn in range(rounds + 1):
        for place, name in enumerate(source.sample(names, len(names))):
            yield turn * len(names) + place, name
