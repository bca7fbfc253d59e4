"""How long the accounting takes: time per record from ten thousand records to a million.

    python benchmarks/accounting.py

A record here is one row of the step timeline or one span of a request: what the exporter has
to look at. Steps are synchronous, 16 requests are in each, and each request stays for 40 of
them; all is made up front and is not timed. One process, one core.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from vllm_codesign import semconv as S  # noqa: E402
from vllm_codesign.accounting import Timeline, account  # noqa: E402
from vllm_codesign.model.step import DeviceInterval, Member, RankStep, Step  # noqa: E402
from vllm_codesign.model.trace import RequestTrace, Span  # noqa: E402

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
BATCH = 16
STEPS_EACH = 40
ENGINE = 1
STEP_NS = 10_000_000
ROWS_OF_A_STEP = 7
"""Output, schedule, update, ipc, prepare and two device intervals."""


def make_step(number: int) -> Step:
    start = number * STEP_NS
    planned, entered, forward = start + 400_000, start + 600_000, start + 900_000
    computed, sampling, sampled = start + 8_000_000, start + 8_100_000, start + 8_900_000
    taken = start + 9_200_000
    first = number // STEPS_EACH * BATCH
    return Step(
        engine=ENGINE,
        number=number + 1,
        schedule=(start, planned),
        before_ns=200_000,
        update=(taken, taken + 500_000),
        waited_ns=taken - planned,
        ranks=(
            RankStep(
                0,
                (entered, computed),
                (forward, computed),
                (sampling, sampled),
                (forward, computed),
                (
                    DeviceInterval(forward, computed, "model", "wall"),
                    DeviceInterval(sampling, sampled, "sample", "wall"),
                ),
            ),
        ),
        members=tuple(
            Member(
                1,
                first + i + 1,
                str(first + i + 1),
                1,
                "decode" if number % STEPS_EACH else "prefill",
            )
            for i in range(BATCH)
        ),
        requests=BATCH,
        tokens=BATCH,
    )


def make_request(number: int) -> RequestTrace:
    """The `number`-th request: eight spans around its steps."""
    group = number // BATCH
    admitted = group * STEPS_EACH * STEP_NS
    token = admitted + STEP_NS
    done = admitted + STEPS_EACH * STEP_NS - 300_000
    start = admitted - 5_000_000
    engine = {S.ENGINE_PID.key: ENGINE, S.REQUEST_ID.key: str(number + 1)}
    children = [
        (S.HTTP_RECEIVE, start, start + 1_000_000, {S.RECEIVE_BODY.key: 500_000}),
        (S.TOKENIZE_WAIT, start + 1_000_000, start + 2_000_000, {}),
        (S.TOKENIZE_ENCODE, start + 2_000_000, start + 4_000_000, {}),
        (S.ENGINE_DISPATCH, start + 4_000_000, admitted - 500_000, {S.DISPATCH_CLIENT.key: 10_000}),
        (S.ENGINE_QUEUE, admitted - 500_000, admitted, engine),
        (S.PREFILL, admitted, token, engine),
        (S.DECODE, token, done, engine),
        (S.ENGINE_RETURN, done, done + 100_000, {S.RETURN_TRANSIT.key: 50_000}),
    ]
    root = Span(
        "POST /v1/completions",
        "vllm",
        number + 1,
        number + 1,
        0,
        start,
        done + 100_000,
        attributes={S.MONOTONIC.key: start, S.LEVEL.key: "step"},
    )
    spans = tuple(
        Span(kind.name, "vllm", number + 1, 0, number + 1, a, b, attributes=attributes)
        for kind, a, b, attributes in children
    )
    return RequestTrace(root, spans)


def measure(records: int) -> tuple[float, float, int]:
    """Seconds to take the steps and to account for the requests, and how many there were."""
    per_group = STEPS_EACH * ROWS_OF_A_STEP + BATCH * 9
    groups = max(records // per_group, 1)
    steps = [make_step(number) for number in range(groups * STEPS_EACH)]
    requests = [make_request(number) for number in range(groups * BATCH)]
    # What is made up here is none of the accounting's: the collector need not walk it.
    gc.collect()
    gc.freeze()
    begun = time.perf_counter()
    timeline = Timeline(ENGINE)
    for step in steps:
        timeline.add(step)
    taken = time.perf_counter()
    for request in requests:
        result = account(request, {ENGINE: timeline})
        if result.total_ns != request.root.duration_ns:
            raise AssertionError("parts do not sum to the wall time")
    return taken - begun, time.perf_counter() - taken, len(requests)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    options = parser.parse_args()
    table = Table(
        "records", "requests", "steps in, s", "accounting, s", "total, s", "us per record"
    )
    for size in options.sizes:
        runs = [measure(size) for _ in range(options.rounds)]
        taking = statistics.median(run[0] for run in runs)
        accounting = statistics.median(run[1] for run in runs)
        total = statistics.median(run[0] + run[1] for run in runs)
        table.add_row(
            f"{size:,}",
            f"{runs[0][2]:,}",
            f"{taking:.3f}",
            f"{accounting:.3f}",
            f"{total:.3f}",
            f"{1e6 * total / size:.2f}",
        )
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
