"""What each hook costs in place: its own time in a live server under load.

    python benchmarks/in_place.py                  # about 3 minutes
    python benchmarks/in_place.py --level request --requests 480

A loop that calls a hook over and over (figure a) has it in the nearest cache. In the API server
some thousands of other lines run between two calls of the same hook. Here each call is timed
where it happens (`in_place_probe.py`), less what the same shims cost around nothing. The same
calls are timed while the hooks are dormant, too: what is more than that is what figure (c)
compares, and the shims' own cold caches and steps cancel. One record is also written four times
in a row at the beginning of each request, the first with the coldest caches.

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import in_place_probe as probe  # noqa: E402
from benchmarks import machine  # noqa: E402
from benchmarks.in_place_costs import (  # noqa: E402
    LONG_NS,
    Cost,
    Samples,
    costs,
    totals,
)
from benchmarks.live_rounds import measure_slot  # noqa: E402
from benchmarks.load import LoadProcess  # noqa: E402
from benchmarks.micro_recording import micro  # noqa: E402
from benchmarks.served import server, traced  # noqa: E402
from vllm_codesign.bench.placement import place  # noqa: E402

WARM = {
    "record, 1st in a row": "record",
    "detokenizer.update": "detokenize",
    "http.send": "send",
    "kv.allocate": "allocate",
    "scheduler.schedule": "schedule",
    "scheduler.update_from_output": "update",
    "worker.sample_tokens": "sample",
}
"""The case of figure (a) that does the same in a loop. Not `execute`, which has the forward's
hook in it, nor `output`, which is a share of a call."""

NOT_COVERED = (
    "jobs in the renderer's pool and the callback when one is done",
    "the timer of the event loop's lag",
    "the sweeper of device time",
    "constructors (table `session`)",
)

_WARM_UPS = 3
_WAIT_S = 20.0


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
            found.set_level("off")
            (folder / probe.BEGIN).touch()
            time.sleep(3 * probe.POLL_S)
            off = measure_slot(found, load, served.url, options.requests, "off", "off")
            measure_slot(found, load, served.url, options.requests, options.level, "counted")
            (folder / probe.END).touch()
            samples = {}
            for pid in dict.fromkeys(found.pids.values()):
                # A lone worker may live in EngineCore's process.
                role = " and ".join(name for name, its in found.pids.items() if its == pid)
                path = folder / f"{pid}.json"
                deadline = time.monotonic() + _WAIT_S
                while not path.exists():
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"the probe in {role} ({pid}) wrote nothing")
                    time.sleep(0.1)
                samples[role] = json.loads(path.read_text())
    steps = max(
        rows["scheduler.schedule"]["calls"]
        for rows in samples.values()
        if "scheduler.schedule" in rows
    )
    return samples, off.cpu_ms["api_server"] * 1e3, steps


COLUMNS = (
    "calls",
    "p10 us",
    "median us",
    "p90 us",
    "mean us",
    "left out",
    "dormant us",
    "left out",
    "loop us",
)


def _us(ns: float | None) -> str:
    return "" if ns is None else f"{ns / 1e3:.2f}"


def print_table(role: str, found: list[Cost], per: str, count: int, warm: dict[str, float]) -> None:
    table = Table(title=f"{role}, per {per}", title_justify="left")
    table.add_column("hook", no_wrap=True)
    for name in (*COLUMNS, f"us per {per}", "over dormant"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in found:
        times = cost.calls / count
        sums = (times * cost.mean_ns, times * cost.more_ns)
        table.add_row(
            cost.row,
            f"{times:.2f}",
            *map(_us, (cost.p10_ns, cost.median_ns, cost.p90_ns, cost.mean_ns)),
            f"{100 * cost.left_out / cost.calls:.1f} %" + ("!" if cost.truncated else ""),
            _us(cost.dormant_ns),
            "" if cost.dormant_left_out is None else f"{100 * cost.dormant_left_out:.1f} %",
            _us(warm.get(WARM.get(cost.row, ""))),
            *(map(_us, sums) if cost.row not in probe.REPEATED else ("", "")),
        )
    Console(width=165).print(table)


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
        per = "request" if "api_server" in role else "step"
        count = options.requests if per == "request" else steps
        found = costs(rows, shims)
        print_table(role, found, per, count, warm)
        total = totals(found, count)
        written["roles"][role] = {"per": per, **total, "rows": [asdict(c) for c in found]}
        said = {
            name: f"{us:.1f} us" + (f" ({100 * us / cpu_us:.1f} %)" if per == "request" else "")
            for name, us in total.items()
        }
        print(
            f"{role}: {said['us']} per {per}, {said['more_us']} more than dormant; "
            f"with what is left out {said['all_us']}, {said['all_more_us']} more than dormant\n"
        )
    written["api_server_us"] = cpu_us
    print(
        f"Percentages: of the API server's {cpu_us:.0f} us of CPU per request with the hooks "
        "dormant, the shims' own included.\n"
        f"Left out of the means: {LONG_NS / 1e3:.0f} us and more; ! where so many that the "
        "mean is cut short. What is long awake and not dormant is the hook's own.\n"
        f"Shims measure {shims[probe.FUNCTION]:.0f} ns around a function that does nothing, "
        f"{shims[probe.COROUTINE]:.0f} ns around a coroutine; taken off.\n"
        f"Not covered: {', '.join(NOT_COVERED)}."
    )
    (options.out / "in_place.json").write_text(json.dumps(written, indent=1))
    print(f"written: {options.out / 'in_place.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
