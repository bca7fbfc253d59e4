"""What metrics add to the exporter's CPU time, per request and per step.

    python benchmarks/metrics.py

Two exporters in one process take the same records from rings, one with metrics and one
without, in turn, round by round; both store traces. A request has 20 spans, a step one rank.
Timed is the CPU time of a round of the exporter's loop. Scrapes are timed on their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from vllm_codesign.exporter.serve import Exporter  # noqa: E402
from vllm_codesign.recorder.layout import Ending, Field, Job, Kind  # noqa: E402
from vllm_codesign.recorder.ring import Ring  # noqa: E402
from vllm_codesign.recorder.session import create  # noqa: E402
from vllm_codesign.settings import Settings  # noqa: E402

AGO_NS = 20_000_000_000
"""Records are of the past, so that nothing waits for more to come."""
MS = 1_000_000
PID = os.getpid()
REQUESTS, STEPS = 100, 400
PORT = 19_464


def text(ring: Ring, key: int, field: Field, value: str) -> None:
    ring.emit_text(Kind.TEXT, key, field, 1, value.encode().ljust(32, b"\0"))


def write_request(ring: Ring, number: int) -> None:
    """One streamed chat request at level `request`."""
    root, key = 2 * number + 1, 2 * number + 2
    t = time.monotonic_ns() - AGO_NS
    emit = ring.emit
    emit(Kind.ROOT_BEGIN, root, t, t, 500, 0, 1)
    emit(Kind.ROOT_PARENT, root, number + 1, number + 1, root, 0, 1)
    text(ring, root, Field.MODEL, "model")
    text(ring, root, Field.SESSION_ID, f"session-{number % 50}")
    emit(Kind.ROOT_RECEIVED, root, t + MS, t + MS, 500)
    emit(Kind.ROOT_PARAMS, root, 16, 1, -1, -1, 0, 1)
    pool = 1 << 16
    emit(Kind.JOB, root, t + 2 * MS, t + 3 * MS, t + 4 * MS, 0, pool, Job.TEMPLATE)
    emit(Kind.JOB, root, t + 5 * MS, t + 6 * MS, t + 8 * MS, 64, pool, Job.TOKENIZE)
    emit(Kind.RESUMED, root, t + 4 * MS + 9, t + 8 * MS + 9)
    emit(Kind.REQ, key, t + 9 * MS, t + 9 * MS + 9, root, 40_000, 64)
    text(ring, key, Field.REQUEST_ID, f"chatcmpl-{number}")
    emit(Kind.REQ_SEND, key, t + 9 * MS + 10, t + 9 * MS + 20)
    emit(Kind.ENG_PREPROCESS, key, t + 10 * MS, t + 10 * MS + 9)
    emit(Kind.ENG_QUEUED, key, t + 11 * MS, number + 1, 64)
    emit(Kind.ENG_SCHEDULED, key, t + 12 * MS, t + 12 * MS + 99, 48)
    emit(Kind.ENG_LOOKUP, key, t + 12 * MS + 10, t + 12 * MS + 20, 64 << 32 | 48, 10, 1)
    emit(Kind.ENG_ALLOCATE, key, t + 12 * MS + 30, t + 12 * MS + 40, 2 << 32, 10, 1)
    emit(Kind.ENG_FINISHED, key, t + 60 * MS, 1, 15, 30, 0, 2)
    emit(Kind.REQ_OUT, key, t + 20 * MS, t + 59 * MS, 16, 16, 0, 2)
    emit(Kind.REQ_RETURN, key, t + 60 * MS, t + 60 * MS + 9, t + 60 * MS + 19, 900, 16)
    emit(Kind.REQ_DETOKENIZE, key, t + 21 * MS, t + 60 * MS + 15, 80_000, 50_000, 16)
    emit(Kind.TAKEN, root, t + 61 * MS)
    emit(Kind.ROOT_STREAM, root, t + 9 * MS, t + 62 * MS, 70_000, 900, 18)
    emit(Kind.ROOT_END, root, t + 62 * MS, t + 21 * MS, 200, 20_000, 0, Ending.COMPLETE)


def write_step(ring: Ring, number: int) -> None:
    """One step of an engine that is never idle."""
    key = PID << 40 | number + 1
    t = BASE_NS + number * 8 * MS
    emit = ring.emit
    emit(Kind.STEP, key, t, t + 400_000, 16 << 32 | 16, 20_000)
    emit(Kind.STEP_STATE, key, 0, 0, 16 << 32, key)
    emit(Kind.WORKER_EXECUTE, key, t + 450_000, t + 7 * MS, t + 600_000, t + 6 * MS, 16)
    emit(Kind.WORKER_SAMPLE, key, t + 7 * MS + 9, t + 7 * MS + 300_000)
    emit(Kind.STEP_UPDATE, key, t + 7 * MS + 500_000, t + 7 * MS + 900_000, 0, 100_000, 16)


BASE_NS = time.monotonic_ns() - 3600 * 1000 * MS


class One:
    """An exporter and the ring it reads."""

    def __init__(self, folder: Path, port: int) -> None:
        session = create(folder, 2, {"started_unix_ns": time.time_ns()})
        self.ring = Ring(session.folder / "process-1.ring", 1 << 22)
        session.enter_exporter()
        self.exporter = Exporter(session, Settings(store=folder / "store", metrics_port=port))
        self.numbers = {write_request: 0, write_step: 0}

    def round(self, write: Callable[[Ring, int], None], count: int) -> float:
        """Microseconds of CPU time for each of `count`."""
        for _ in range(count):
            write(self.ring, self.numbers[write])
            self.numbers[write] += 1
        begun = time.process_time_ns()
        self.exporter.poll()
        self.exporter.housekeep()
        return (time.process_time_ns() - begun) / 1000 / count


def scrape_ms(exporter: Exporter) -> tuple[float, int]:
    """Milliseconds for one answer, and its bytes."""
    assert exporter.metrics is not None
    begun = time.process_time_ns()
    body, _ = exporter.metrics.render("application/openmetrics-text;version=1.0.0")
    return (time.process_time_ns() - begun) / 1e6, len(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "without metrics, us", "with, us", "they add, us", "ratio"):
        table.add_column(name)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        without, with_metrics = One(Path(one), 0), One(Path(other), PORT)
        for what, write, count in (
            ("request", write_request, REQUESTS),
            ("step", write_step, STEPS),
        ):
            pairs = []
            for number in range(rounds + 3):
                turn = (without, with_metrics) if number % 2 else (with_metrics, without)
                took = {id(each): each.round(write, count) for each in turn}
                pairs.append((took[id(without)], took[id(with_metrics)]))
            plain, measured = zip(*pairs[3:], strict=True)
            added = statistics.median(b - a for a, b in pairs[3:])
            base = statistics.median(plain)
            table.add_row(
                what,
                f"{base:.0f}",
                f"{statistics.median(measured):.0f}",
                f"{added:.0f}",
                f"{(base + added) / base:.2f}",
            )
        assert with_metrics.exporter.counters["requests"] == REQUESTS * (rounds + 3)
        assert with_metrics.exporter.counters["steps"] == STEPS * (rounds + 3)
        console.print(table)
        times = [scrape_ms(with_metrics.exporter) for _ in range(20)]
        median = statistics.median(ms for ms, _ in times)
        console.print(f"one scrape: {median:.1f} ms of CPU time, {times[-1][1] / 1024:.0f} KiB")
        for each in (without, with_metrics):
            each.exporter.finish(complete=True)


if __name__ == "__main__":
    main()
