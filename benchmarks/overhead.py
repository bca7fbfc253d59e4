"""What tracing costs: three figures that must agree.

    make bench-overhead                         # all of it, about 35 minutes
    python benchmarks/overhead.py --quick       # does it run? 4 minutes, figures worth little
    python benchmarks/overhead.py --lmcache     # the same with a KV connector

Prints the table and writes OUT/overhead.json with every slot.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules in this folder only, and not beside it.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import machine, table  # noqa: E402
from benchmarks.bound import ASSUMPTIONS, Bound, bounds  # noqa: E402
from benchmarks.intervals import Interval, median_interval  # noqa: E402
from benchmarks.live_rounds import (  # noqa: E402
    MEASURES,
    SETTLE_S,
    Slot,
    measure_slot,
    ratios,
    run_rounds,
)
from benchmarks.load import CLIENTS, WORDS, LoadProcess  # noqa: E402
from benchmarks.micro_recording import micro  # noqa: E402
from benchmarks.other_servers import Other, compare  # noqa: E402
from benchmarks.registration import registration_s  # noqa: E402
from benchmarks.ring_counts import Tally, position, ring_of, since  # noqa: E402
from benchmarks.served import ROLES, Traced, server, traced  # noqa: E402
from vllm_codesign.bench.lmcache_server import ENVIRONMENT, LMCacheServer  # noqa: E402
from vllm_codesign.bench.placement import place  # noqa: E402
from vllm_codesign.bench.vllm_platform import device_type  # noqa: E402

COUNTED_REQUESTS = 96
_WARM_UPS = 3


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S ") + line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=machine.ROOT / ".cache/models/tiny")
    parser.add_argument("--out", type=Path, default=machine.ROOT / "out/overhead")
    parser.add_argument("--rounds", type=int, default=200, help="live rounds of six slots")
    parser.add_argument("--requests", type=int, default=96, help="requests in a slot")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--micro-rounds", type=int, default=300)
    parser.add_argument("--only-micro", action="store_true", help="figure (a) alone, no server")
    parser.add_argument(
        "--with-other-servers",
        action="store_true",
        help="also one without the plugin and one with vLLM's own tracing (12 minutes more)",
    )
    parser.add_argument(
        "--no-pin",
        dest="pin",
        action="store_false",
        help="leave it to the kernel which core a process runs on",
    )
    parser.add_argument(
        "--lmcache",
        action="store_true",
        help="with LMCache behind the server: what the hooks of a KV connector add; on two cores "
        "with --no-pin, as the worker's threads want both there",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds of everything")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests, options.micro_rounds = 4, 32, 40
    return options


def count(server: Traced, load: LoadProcess, url: str) -> Tally:
    """What a load at level `step`, which records most, leaves in the rings."""
    rings = {role: ring_of(server.session, server.pids[role]) for role in ROLES}
    starts = {role: position(path) for role, path in rings.items()}
    measure_slot(server, load, url, COUNTED_REQUESTS, "step", "counted")
    tally = Tally(COUNTED_REQUESTS)
    for role, path in rings.items():
        tally.add(role, since(path, starts[role]))
    return tally


def exporter_cpu(slots: list[Slot]) -> dict[str, tuple[Interval, Interval]]:
    return {
        level: (
            median_interval([s.cpu_ms["exporter"] for s in slots if s.label == level]),
            median_interval([s.exporter_cores for s in slots if s.label == level]),
        )
        for level in ("off", "request", "step")
    }


def live(
    options: argparse.Namespace, ns: dict[str, Interval]
) -> tuple[Tally, list[Bound], list[Slot], dict[str, Other]]:
    """Everything that needs a server."""
    others: dict[str, Other] = {}
    with ExitStack() as stack:
        beside: tuple[int, ...] = ()
        flags: tuple[str, ...] = ()
        env: dict[str, str] = {}
        if options.lmcache:
            cache = LMCacheServer(
                2,
                engine_driven=device_type(sys.executable) == "cpu",
                log_path=options.out / "lmcache.log",
            )
            flags, env = stack.enter_context(cache).vllm_flags, ENVIRONMENT
            beside = (cache.pid,)
        made = server(options.model, options.out, "server", "codesign", flags, env)
        served = stack.enter_context(made)
        load = stack.enter_context(LoadProcess("tiny", options.tokens))
        found = traced(served.pid)
        if options.pin:
            exporter = found.session.exporter[0]
            placed = place(found.pids, (exporter, load.pid, os.getpid(), *beside))
            say(f"cores: {placed}" if placed else "one core: nothing is pinned")
        say(f"processes: {found.pids}, exporter {found.session.exporter[0]}")
        for number in range(_WARM_UPS):
            load.run(served.url, options.requests, f"warm{number}")
        time.sleep(SETTLE_S)
        tally = count(found, load, served.url)
        slots = run_rounds(found, load, served.url, options.rounds, options.requests, say)
        if options.with_other_servers:
            others = compare(
                options.model,
                options.out,
                (served.url, served.pid, found),
                load,
                max(options.rounds // 4, 3),
                options.requests,
                say,
            )
    idle = statistics.median(s.cpu_ms["api_server"] for s in slots if s.label == "off")
    return tally, bounds(tally, ns, idle * 1e3), slots, others


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    before = machine.now()
    written: dict[str, Any] = {
        "version": 1,
        "machine": machine.describe(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "load": {"clients": CLIENTS, "prompt_words": WORDS, "output_tokens": options.tokens},
        "before": before,
    }
    say("figure (a): records and hooked calls")
    ns = micro(options.micro_rounds)
    say("figure (a): registration")
    seconds = {
        "targets not imported yet": registration_s(3 if options.quick else 10, loaded=False),
        "vLLM's modules imported": registration_s(1 if options.quick else 3, loaded=True),
    }
    rows = table.micro_rows(ns) + table.registration_rows(seconds)
    written["micro_ns"] = {name: figure.as_dict() for name, figure in ns.items()}
    written["registration_s"] = {name: figure.as_dict() for name, figure in seconds.items()}

    if not options.only_micro:
        tally, bound, slots, others = live(options, ns)
        by_measure = {measure: ratios(slots, measure) for measure in MEASURES}
        rows += table.bound_rows(bound) + table.live_rows(by_measure)
        rows += table.stall_rows(slots) + table.host_rows(slots)
        rows += table.exporter_rows(exporter_cpu(slots)) + table.other_rows(others)
        written["counted"] = tally.as_dict()
        written["bounds"] = [{**asdict(each), "us": each.us, "share": each.share} for each in bound]
        written["assumptions"] = ASSUMPTIONS
        written["ratios"] = {
            measure: {label: each.as_dict() for label, each in by_label.items()}
            for measure, by_label in by_measure.items()
        }
        written["slots"] = [asdict(slot) for slot in slots]
        written["other_servers"] = {name: asdict(other) for name, other in others.items()}

    after = machine.now()
    written["after"] = after
    written["steal"] = machine.steal_share(before, after)
    written["table"] = [asdict(row) for row in rows]
    (options.out / "overhead.json").write_text(json.dumps(written, indent=1))
    table.print_table(rows)
    if not options.only_micro:
        print_bounds(bound)
    print(
        f"load average before and after: {before['load_average'][0]:.1f}, "
        f"{after['load_average'][0]:.1f}; the hypervisor took {written['steal'] * 100:.1f} % of "
        "the CPU time meanwhile"
    )
    print(f"written: {options.out / 'overhead.json'}")
    return 0


def print_bounds(bound: list[Bound]) -> None:
    """The arithmetic of figure (b), and what it takes for granted."""
    for each in bound:
        parts = ", ".join(
            f"{item.what} {item.count:.2f} x {item.ns:.0f} ns" for item in each.items if item.count
        )
        print(f"(b) {each.process}, per {each.per}: {parts}")
    for line in ASSUMPTIONS:
        print(f"    assumed: {line}")


if __name__ == "__main__":
    sys.exit(main())
