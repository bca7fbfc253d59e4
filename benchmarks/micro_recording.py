"""Figure (a): nanoseconds per record, per hooked call, per dormant hook.

    python -m benchmarks.micro_recording --rounds 200      # one JSON object on stdout

Runs in a process of its own: under pytest the wrappers raise instead of counting, and
coverage or a debugger would be timed with them. All cases are run in every round, in an
order drawn anew, and what a case costs more than its plain counterpart is taken within the
round; the figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.intervals import Interval, median_interval
from vllm_codesign.recorder import active, session
from vllm_codesign.recorder.reader import RingReader
from vllm_codesign.settings import DEFAULT_RING_BYTES

REPEATS = 200
"""Calls in one timed stretch: well inside a time slice, or a busy machine is timed too."""


def micro(rounds: int) -> dict[str, Interval]:
    """Run the cases in a fresh interpreter; nanoseconds by case."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))}
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro_recording", "--rounds", str(rounds)],
        cwd=Path(__file__).parents[1],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if process.returncode:
        raise RuntimeError(f"micro benchmark: {process.stderr.strip()[-2000:]}")
    return {name: Interval(**value) for name, value in json.loads(process.stdout).items()}


def measure(rounds: int) -> dict[str, Interval]:
    """Nanoseconds per unit of each case, with a ring that a reader keeps up with."""
    from benchmarks.micro_cases import engine_cases, frontend_cases, general_cases
    from benchmarks.micro_kv_cases import connector_cases

    if "pytest" in sys.modules or sys.gettrace() is not None:
        raise RuntimeError("a tracer or pytest is loaded: its cost would be measured too")
    # The rings of a server live in tmpfs, and so does this one.
    with tempfile.TemporaryDirectory(prefix="codesign-micro-", dir="/dev/shm") as folder:
        joined = session.create(Path(folder), 1, {})
        active.activate(joined, "process", DEFAULT_RING_BYTES)
        reader = RingReader(joined.rings()[0])
        cases = general_cases() + engine_cases() + frontend_cases() + connector_cases()
        by_name = {case.name: case for case in cases}
        spent: dict[str, list[float]] = {name: [] for name in by_name}
        source = random.Random(0)
        # As vLLM does (`gc.freeze` after start-up); a collection is no record's cost.
        gc.collect()
        gc.disable()
        for _ in range(rounds):
            for case in source.sample(cases, len(cases)):
                repeats = max(1, REPEATS // case.units)
                joined.level = case.level
                spent[case.name].append(case.run(repeats) / repeats / case.units)
                for _record in reader.read():
                    pass
        if reader.errors or reader.lost:
            raise RuntimeError(f"{reader.errors} advice failed, {reader.lost} records lost")
        reader.close()
    return {
        name: median_interval(
            [a - b for a, b in zip(spent[name], spent[case.more_than], strict=True)]
        )
        for name, case in by_name.items()
        if case.more_than
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    figures = measure(parser.parse_args().rounds)
    json.dump({name: figure.as_dict() for name, figure in figures.items()}, sys.stdout)
