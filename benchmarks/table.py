"""The table: each figure, its goal, and whether it is met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.bound import Bound
from benchmarks.intervals import Interval
from benchmarks.live_rounds import Slot
from benchmarks.other_servers import Other

NOISE_WIDTH = 0.01
"""Off against off must be narrower than this, or figure (c) shows nothing."""

ALLOWED = 0.01

STALL_MS = 300.0
"""Ten steps of this load's size."""

MET, MISSED, NOT_SHOWN = "met", "missed", "not shown"


@dataclass(frozen=True, slots=True)
class Row:
    """One line; `goal` and `verdict` are empty where the figure is information."""

    figure: str
    value: str
    goal: str = ""
    verdict: str = ""


def _within(value: float, goal: float) -> str:
    return MET if value <= goal else MISSED


def _ns(figure: Interval) -> str:
    return f"{figure.median:.0f} ns [{figure.low:.0f}, {figure.high:.0f}]"


def _ratio(figure: Interval) -> str:
    return (
        f"{(figure.median - 1) * 100:+.2f} % "
        f"[{(figure.low - 1) * 100:+.2f}, {(figure.high - 1) * 100:+.2f}]"
    )


def micro_rows(ns: dict[str, Interval]) -> list[Row]:
    goals = {
        "record": ("record, clock read included", 500.0),
        "hooked_call": ("hooked call with record, more than plain", 1000.0),
        "counting_call": ("hooked call without record", None),
        "dormant_call": ("dormant hook (level off)", None),
        "allocate": ("allocate_slots, per running request and step", None),
        "endpoint": ("root and endpoint, per request", None),
        "output": ("process_outputs, per output", None),
        "detokenize": ("detokenizer.update, per output", None),
        "send": ("send, per chunk of a stream", None),
        "schedule": ("schedule, per step", None),
        "update": ("update_from_output, per step", None),
        "execute": ("worker's call, two per step", None),
    }
    rows = []
    for name, (title, goal) in goals.items():
        wanted = "" if goal is None else f"<= {goal:.0f} ns"
        verdict = "" if goal is None else _within(ns[name].median, goal)
        rows.append(Row(f"(a) {title}", _ns(ns[name]), wanted, verdict))
    return rows


def registration_rows(seconds: dict[str, Interval]) -> list[Row]:
    return [
        Row(
            f"(a) registration, {name}",
            f"{s.median * 1e3:.0f} ms [{s.low * 1e3:.0f}, {s.high * 1e3:.0f}]",
            "<= 100 ms",
            _within(s.median, 0.1),
        )
        for name, s in seconds.items()
    ]


def bound_rows(bounds: Iterable[Bound]) -> list[Row]:
    return [
        Row(
            f"(b) {bound.process}, per {bound.per}",
            f"{bound.us:.1f} us of {bound.base_us:.0f} us = {bound.share * 100:.2f} %",
            "<= 1 %",
            _within(bound.share, 0.01),
        )
        for bound in bounds
    ]


def verdict_of(ratio: Interval, noise: Interval, more_is_worse: bool) -> str:
    """Whether a treatment stays within the noise floor or 1 %, if the noise lets us see that."""
    beyond = (
        ratio.low > max(noise.high, 1 + ALLOWED)
        if more_is_worse
        else ratio.high < min(noise.low, 1 - ALLOWED)
    )
    if beyond:
        return MISSED  # the noise does not reach so far
    if noise.width >= NOISE_WIDTH:
        return NOT_SHOWN
    if more_is_worse:
        return MET if ratio.median <= max(noise.high, 1 + ALLOWED) else MISSED
    return MET if ratio.median >= min(noise.low, 1 - ALLOWED) else MISSED


def live_rows(ratios: dict[str, dict[str, Interval]]) -> list[Row]:
    """`ratios`: by measure, then by treatment."""
    titles = {
        "cpu_ms": ("API server's CPU per request", True),
        "requests_per_s": ("throughput", False),
        "itl_ms": ("median inter-token time", True),
    }
    rows = []
    for measure, (title, more_is_worse) in titles.items():
        noise = ratios[measure]["off again"]
        shown = MET if noise.width < NOISE_WIDTH else NOT_SHOWN
        rows.append(Row(f"(c) {title}, off against off", _ratio(noise), "narrower than 1 %", shown))
        for level in ("request", "step"):
            ratio = ratios[measure][level]
            verdict = verdict_of(ratio, noise, more_is_worse)
            rows.append(Row(f"(c) {title}, {level}", _ratio(ratio), "noise floor or 1 %", verdict))
    return rows


def stall_rows(slots: Sequence[Slot]) -> list[Row]:
    """How many slots stood still, by level; see vllm_codesign.bench.placement for why they do."""
    rows = []
    for level in ("off", "request", "step"):
        stalls = [slot.stall_ms for slot in slots if slot.label.startswith(level)]
        stood = sum(ms >= STALL_MS for ms in stalls)
        rows.append(Row(f"slots that stood still at {level}", f"{stood} of {len(stalls)}"))
    return rows


def host_rows(slots: Sequence[Slot]) -> list[Row]:
    """By level: CPU milliseconds per request of vLLM's processes and the exporter together.

    EngineCore and the workers spin while they wait, so on a host with cores to spare this holds
    idle waiting, too. Where all cores are full it is what throughput is made of.
    """
    rows = []
    for level in ("off", "request", "step"):
        here = [slot.cpu_ms for slot in slots if slot.label == level]
        total = statistics.median(sum(by_role.values()) for by_role in here)
        rows.append(Row(f"CPU of vLLM and the exporter at {level}", f"{total:.1f} ms per request"))
    return rows


def exporter_rows(levels: dict[str, tuple[Interval, Interval]]) -> list[Row]:
    """By level: CPU milliseconds per request, and share of a core."""
    return [
        Row(
            f"exporter's CPU at {level}",
            f"{per_request.median:.2f} ms per request, {cores.median * 100:.1f} % of a core",
        )
        for level, (per_request, cores) in levels.items()
    ]


def other_rows(others: dict[str, Other]) -> list[Row]:
    return [
        Row(
            f"server {name}: API server's CPU per request",
            f"{other.cpu_ms.median:.2f} ms [{other.cpu_ms.low:.2f}, {other.cpu_ms.high:.2f}], "
            f"{_ratio(other.ratio)}, {other.requests_per_s.median:.1f} requests/s",
        )
        for name, other in others.items()
    ]


def print_table(rows: Iterable[Row]) -> None:
    table = Table("figure", "median [95 % interval]", "goal", "verdict")
    for row in rows:
        table.add_row(row.figure, row.value, row.goal, row.verdict)
    # Never narrower than its lines: a table that is piped to a file is cut to 80 columns.
    Console(width=150 if not Console().is_terminal else None).print(table)
