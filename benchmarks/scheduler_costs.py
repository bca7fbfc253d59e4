"""What vLLM's scheduler costs by requests and context, and how that grows.

    python benchmarks/scheduler_costs.py                  # tables, and OUT/scheduler_costs.json
    python benchmarks/scheduler_costs.py --from FILE      # the tables of an earlier run again

The MI300X study put 94 % of the CPU's overhead down to "scheduling + queue wait", about 3.6 s at
32 clients with 100,000 tokens each, and reasoned that the lookup walks a tree in O(n) and that
scheduling grows faster than the number of requests. Here a real `Scheduler` is driven without a
model (`vllm_codesign/micro/scheduler.py`).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules in this folder only, and not beside it.
sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console  # noqa: E402

from benchmarks import machine  # noqa: E402
from benchmarks.scheduler_tables import show  # noqa: E402
from vllm_codesign.micro.harness import Clock  # noqa: E402
from vllm_codesign.micro.scheduler import CLOCKS, Grid, run  # noqa: E402
from vllm_codesign.model.errors import CodesignError  # noqa: E402
from vllm_codesign.model.micro import Timing  # noqa: E402


def measure(grid: Grid, rounds: int, seconds: float, clock: Clock) -> dict[str, Any]:
    """What is written: the machine, and every timing."""
    begun = time.monotonic()
    # vLLM is imported by `run`; its version is known afterwards.
    timings = list(
        run(grid, rounds, begun + seconds, lambda text: print(text, file=sys.stderr), clock)
    )
    import vllm

    return {
        "version": 1,
        "machine": machine.describe(),
        "vllm": vllm.__version__,
        "rounds": rounds,
        "clock": clock,
        "seconds": round(time.monotonic() - begun),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "timings": [timing.model_dump() for timing in timings],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=machine.ROOT / "out/scheduler_costs")
    parser.add_argument("--from", dest="earlier", type=Path, help="scheduler_costs.json of a run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1_200, help="no round begins after")
    parser.add_argument("--requests", type=_sizes, help="of the full grid's, such as 32,256")
    parser.add_argument("--tokens", type=_sizes, help="of each request, such as 1000,100000")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: without others' turns"
    )
    parser.add_argument("--quick", action="store_true", help="does it run? small cases alone")
    options = parser.parse_args()
    if options.earlier is not None and not options.earlier.is_file():
        parser.error(f"{options.earlier} is no file: name the scheduler_costs.json of a run")
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(each) for each in text.split(","))
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: name sizes above 0, such as 1,32,256")
    return sizes


def _grid(options: argparse.Namespace) -> Grid:
    grid = Grid.quick() if options.quick else Grid.full()
    return replace(
        grid,
        requests=options.requests or grid.requests,
        tokens=options.tokens or grid.tokens,
    )


def main() -> int:
    options = parse()
    if options.earlier is not None:
        written = json.loads(options.earlier.read_text())
    else:
        try:
            written = measure(_grid(options), options.rounds, options.seconds, options.clock)
        except CodesignError as error:
            print(error, file=sys.stderr)
            return 1
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "scheduler_costs.json"
        path.write_text(json.dumps(written, indent=1))
        print(f"written: {path}", file=sys.stderr)
    timings = [Timing.model_validate(each) for each in written["timings"]]
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(
        f"vLLM {written['vllm']}, {written['rounds']} rounds, {written['seconds']} s, "
        f"{written.get('clock', 'wall')} time, "
        f"at most {written['peak_mib']:,} MiB"
    )
    show(timings, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
