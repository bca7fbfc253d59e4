"""What the tables say of timings that are known."""

from __future__ import annotations

import io

from rich.console import Console

from benchmarks.scheduler_tables import show
from vllm_codesign.model.micro import Timing


def timing(component: str, variant: str, requests: int, tokens: int, ns: float) -> Timing:
    return Timing(
        component=component,
        group="scheduler",
        variant=variant,
        requests=requests,
        tokens=tokens,
        samples_ns=[ns] * 3,
        median_ns=ns,
        low_ns=ns * 0.9,
        high_ns=ns * 1.1,
        note="sum of 391 steps" if variant == "prefill chunked" else "",
    )


def test_tables_hold_the_times_their_growth_and_the_studys_claim() -> None:
    timings = [
        timing("schedule", "decode", requests, tokens, requests * 1_000.0)
        for requests in (1, 32, 256)
        for tokens in (1_000, 100_000)
    ]
    timings.append(timing("allocate_slots", "decode", 256, 1_000, 77_000.0))
    timings.append(timing("schedule", "prefill chunked", 32, 100_000, 360e6))
    out = io.StringIO()
    show(timings, Console(file=out, width=200))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "256 256.0 [230.4, 281.6] 256.0 [230.4, 281.6]" in lines
    grown = next(line for line in lines if line.startswith("schedule, decode requests"))
    assert grown.startswith("schedule, decode requests 1,000 tokens 1-256 1.00 [1.00, 1.00]")
    assert any(
        "in chunks, nothing cached: 360.00 ms [324.00, 396.00], the study's 3.6 s is 10 times "
        "that (sum of 391 steps)" in line
        for line in lines
    )
    assert any("32 x 100,000 tokens, a step that decodes them all: 0.03 ms" in x for x in lines)
    assert "256 1,000 256.0 [230.4, 281.6] 77.0 [69.3, 84.7] -" in lines
