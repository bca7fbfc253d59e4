"""What each hook costs in place: its own time in a live server under load.

    python benchmarks/in_place.py                  # about 3 minutes
    python benchmarks/in_place.py --level request --requests 480

A loop that calls a hook over and over (figure a) has it in the nearest cache. In the API server
some thousands of other lines run between two calls of the same hook. Here each call is timed
where it happens (`in_place_probe.py`), less what the same shims cost around nothing. One record
is also written four times in a row at the beginning of each request: what the first costs more
than the fourth is what the caches cost.

Prints a table and writes OUT/in_place.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import in_place_probe as probe  # noqa: E402
from benchmarks import machine  # noqa: E402
from benchmarks.live_rounds import measure_slot  # noqa: E402
from benchmarks.load import LoadProcess  # noqa: E402
from benchmarks.micro_recording import micro  # noqa: E402
from benchmarks.placement import place  # noqa: E402
from benchmarks.served import server, traced  # noqa: E402

PREEMPTED_NS = 50_000
"""No hook takes so long; a process that had to leave its core meanwhile does."""

WARM = {
    "record, 1st in a row": "record",
    "detokenizer.update": "detokenize",
    "http.send": "send",
    "kv.allocate": "allocate",
    "scheduler.schedule": "schedule",
    "scheduler.update_from_output": "update",
    "worker.execute_model": "execute",
    "worker.sample_tokens": "sample",
}
"""The case of figure (a) that does the same in a loop."""

_WARM_UPS = 3
_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Cost:
    """One row's own time, in nanoseconds a call, the shims' taken off.

    `mean_ns` leaves out calls of PREEMPTED_NS and more, whose number is `left_out`.
    """

    row: str
    calls: int
    p10_ns: float
    median_ns: float
    p90_ns: float
    mean_ns: float
    left_out: int


def cost_of(row: str, samples: Sequence[int], shim_ns: float) -> Cost:
    """Raises ValueError where no sample is left."""
    kept = sorted(ns - shim_ns for ns in samples if ns < PREEMPTED_NS)
    if not kept:
        raise ValueError(f"no sample of {row} below {PREEMPTED_NS} ns")

    def quantile(share: float) -> float:
        return kept[min(int(share * len(kept)), len(kept) - 1)]

    return Cost(
        row,
        len(samples),
        quantile(0.1),
        quantile(0.5),
        quantile(0.9),
        statistics.fmean(kept),
        len(samples) - len(kept),
    )


def shims_ns() -> dict[str, float]:
    """What the shims measure around nothing, in a loop: the median, of functions and coroutines.

    In place they too run with cold caches: what stays of that is counted as the hooks'.
    """

    def nothing(self: object) -> None:
        return None

    async def nothing_async(self: object) -> None:
        return None

    functions: list[int] = []
    coroutines: list[int] = []
    function = probe.around_function(lambda inner, _: inner, nothing, (), functions.append)
    coroutine = probe.around_coroutine(lambda inner, _: inner, nothing_async, (), coroutines.append)

    async def run() -> None:
        for _ in range(20_000):
            function(None)
            await coroutine(None)

    asyncio.run(run())
    return {
        probe.FUNCTION: statistics.median(functions),
        probe.COROUTINE: statistics.median(coroutines),
        probe.NONE: 0.0,
    }


Samples = dict[str, tuple[str, list[int]]]
"""By row: the kind of shims, and nanoseconds of each call."""


def costs(samples: Samples, shims: dict[str, float]) -> list[Cost]:
    """Every row of one process, dearest first."""
    found = [
        cost_of(row, values, shims[shim])
        for row, (shim, values) in samples.items()
        if any(ns < PREEMPTED_NS for ns in values)
    ]
    return sorted(found, key=lambda cost: -cost.calls * cost.mean_ns)


def install_plugin(folder: Path) -> dict[str, str]:
    """Make the probe a plugin that vLLM finds; returns the environment that it needs."""
    information = folder / "codesign_in_place-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: codesign-in-place\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ncodesign_in_place = benchmarks.in_place_probe:register\n"
    )
    paths = [str(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), probe.FOLDER: str(folder)}


def measure(options: argparse.Namespace) -> tuple[dict[str, Samples], float, int]:
    """Samples by role and row, the API server's CPU per request at `off` in us, and steps."""
    with tempfile.TemporaryDirectory(prefix="codesign-in-place-") as name:
        folder = Path(name)
        os.environ.update(install_plugin(folder))
        with (
            server(options.model, options.out, "in_place", "codesign_in_place") as served,
            LoadProcess("tiny", options.tokens) as load,
        ):
            found = traced(served.pid)
            place(found.pids, (found.session.exporter[0], load.pid, os.getpid()))
            for number in range(_WARM_UPS):
                load.run(served.url, options.requests, f"warm{number}")
            off = measure_slot(found, load, served.url, options.requests, "off", "off")
            (folder / probe.BEGIN).touch()
            time.sleep(3 * probe._POLL_S)
            measure_slot(found, load, served.url, options.requests, options.level, "counted")
            (folder / probe.END).touch()
            samples = {}
            for role, pid in found.pids.items():
                path = folder / f"{pid}.json"
                deadline = time.monotonic() + _WAIT_S
                while not path.exists():
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"the probe in {role} ({pid}) wrote nothing")
                    time.sleep(0.1)
                samples[role] = json.loads(path.read_text())
    steps = len(samples["engine_core"]["scheduler.schedule"][1])
    return samples, off.cpu_ms["api_server"] * 1e3, steps


def print_table(
    role: str, found: list[Cost], per: str, count: int, warm: dict[str, float]
) -> float:
    """Returns the sum, in us per request or step."""
    table = Table(title=f"{role}, per {per}", title_justify="left")
    for name in ("hook", "calls", "p10 us", "median us", "p90 us", "mean us", "in a loop us"):
        table.add_column(name, justify="left" if name == "hook" else "right", no_wrap=True)
    table.add_column(f"us per {per}", justify="right")
    total = 0.0
    for cost in found:
        share = cost.calls * cost.mean_ns / count / 1e3
        counted = cost.row not in probe.REPEATED
        total += share if counted else 0.0
        loop = warm.get(WARM.get(cost.row, ""))
        table.add_row(
            cost.row,
            f"{cost.calls / count:.2f}",
            *(f"{ns / 1e3:.2f}" for ns in (cost.p10_ns, cost.median_ns, cost.p90_ns, cost.mean_ns)),
            "" if loop is None else f"{loop / 1e3:.2f}",
            f"{share:.2f}" if counted else "(the benchmark's own)",
        )
    Console(width=110).print(table)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=machine.ROOT / ".cache/models/tiny")
    parser.add_argument("--out", type=Path, default=machine.ROOT / "out/overhead")
    parser.add_argument("--requests", type=int, default=960)
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--level", choices=("request", "step"), default="step")
    parser.add_argument("--micro-rounds", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warm = {name: figure.median for name, figure in micro(options.micro_rounds).items()}
    shims = shims_ns()
    samples, cpu_us, steps = measure(options)
    written: dict[str, Any] = {"machine": machine.describe(), "shims_ns": shims, "roles": {}}
    for role, rows in samples.items():
        per, count = ("request", options.requests) if role == "api_server" else ("step", steps)
        found = costs(rows, shims)
        total = print_table(role, found, per, count, warm)
        written["roles"][role] = {"per": per, "us": total, "rows": [asdict(c) for c in found]}
        if role == "api_server":
            print(
                f"{role}: {total:.1f} us per request, {100 * total / cpu_us:.1f} % of its "
                f"{cpu_us:.0f} us of CPU per request with the hooks dormant\n"
            )
        else:
            print(f"{role}: {total:.1f} us per step\n")
    left_out = sum(cost["left_out"] for r in written["roles"].values() for cost in r["rows"])
    print(
        f"{left_out} calls of {PREEMPTED_NS / 1e3:.0f} us and more are left out; shims measure "
        f"{shims[probe.FUNCTION]:.0f} ns around a function that does nothing, "
        f"{shims[probe.COROUTINE]:.0f} ns around a coroutine. Not covered: jobs in the renderer's "
        "pool, the timer of the event loop's lag, device time's own calls."
    )
    (options.out / "in_place.json").write_text(json.dumps(written, indent=1))
    print(f"written: {options.out / 'in_place.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
