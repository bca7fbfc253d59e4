"""The tables of benchmarks/scheduler_costs.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from vllm_codesign.micro.growth import growths
from vllm_codesign.model.micro import Timing

STUDY_SECONDS = 3.6
"""Of the study: what it calls scheduling and queue wait, at 32 clients with 100,000 tokens."""
STUDY_CASE = (32, 100_000)
BOUND_REQUESTS = (32, 256)

_Key = tuple[str, str, int, int]


def show(timings: Sequence[Timing], console: Console) -> None:
    """Times by case, how they grow, and what they say of the study's figure."""
    found = {
        (timing.component, timing.variant, timing.requests or 0, timing.tokens or 0): timing
        for timing in timings
    }
    for component, variant in dict.fromkeys((t.component, t.variant) for t in timings):
        if variant != "prefill chunked":
            console.print(_times(found, component, variant))
    console.print(_growths(timings))
    _claim(found, console)
    console.print(_bounds(found))


def _times(found: dict[_Key, Timing], component: str, variant: str) -> Table:
    cases = [key for key in found if key[:2] == (component, variant)]
    tokens = sorted({case[3] for case in cases})
    table = _table(f"{component}, {variant}: microseconds a step, median [95 %]", "requests")
    for each in tokens:
        table.add_column(f"{each:,} tokens", justify="right", no_wrap=True)
    for requests in sorted({case[2] for case in cases}):
        row = [found.get((component, variant, requests, each)) for each in tokens]
        table.add_row(f"{requests:,}", *(_with_interval(one) for one in row))
    return table


def _growths(timings: Sequence[Timing]) -> Table:
    table = _table("growth: time ~ size ** exponent [95 %]", "")
    for name, justify in (
        ("against", "left"),
        ("at", "right"),
        ("sizes", "right"),
        ("exponent", "right"),
        ("constant us", "right"),
        ("fit", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for one in growths(timings):
        other = "requests" if one.against == "tokens" else "tokens"
        table.add_row(
            f"{one.component}, {one.variant}",
            one.against,
            f"{one.at:,} {other}",
            f"{one.sizes[0]:,}-{one.sizes[-1]:,}",
            f"{one.exponent:.2f} [{one.low:.2f}, {one.high:.2f}]",
            f"{one.constant_ns / 1e3:,.1f}" if one.constant_ns else "",
            one.method.replace("least squares of medians; furthest size", "l.s.,"),
        )
    return table


def _claim(found: dict[_Key, Timing], console: Console) -> None:
    requests, tokens = STUDY_CASE
    for variant, what in (
        ("prefill chunked", "all steps that admit them in chunks, nothing cached"),
        ("prefill cold", "one step that admits them all, nothing cached"),
        ("prefill warm", "one step that admits them all, all cached"),
        ("decode", "a step that decodes them all"),
    ):
        timing = found.get(("schedule", variant, requests, tokens))
        if timing is None:
            continue
        factor = STUDY_SECONDS * 1e9 / timing.median_ns
        median, low, high = (
            f"{ns / 1e6:,.2f}" for ns in (timing.median_ns, timing.low_ns, timing.high_ns)
        )
        console.print(
            f"schedule() at {requests} x {tokens:,} tokens, {what}: {median} ms [{low}, {high}], "
            f"the study's {STUDY_SECONDS} s is {factor:,.0f} times that"
            + (f" ({timing.note})" if variant == "prefill chunked" else ""),
            soft_wrap=True,
        )


def _bounds(found: dict[_Key, Timing]) -> Table:
    table = _table("a decode step: all that a recommendation could save, microseconds", "running")
    table.add_column("tokens each", justify="right")
    table.add_column("schedule (batched decisions)", justify="right")
    table.add_column("of it allocate_slots (pre-allocated blocks)", justify="right")
    table.add_column("update_from_output", justify="right")
    for requests in BOUND_REQUESTS:
        for tokens in sorted({key[3] for key in found if key[2] == requests}):
            get: Callable[[str], Timing | None] = lambda name, r=requests, t=tokens: found.get(  # noqa: E731
                (name, "decode", r, t)
            )
            row = [get(name) for name in ("schedule", "allocate_slots", "update_from_output")]
            table.add_row(f"{requests}", f"{tokens:,}", *(_with_interval(one) for one in row))
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column(first, no_wrap=True)
    return table


def _with_interval(timing: Timing | None) -> str:
    if timing is None:
        return "-"
    return (
        f"{timing.median_ns / 1e3:,.1f} [{timing.low_ns / 1e3:,.1f}, {timing.high_ns / 1e3:,.1f}]"
    )
