"""A comparison as text, for the terminal and the page: a sentence and a table for each scenario."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from vllm_codesign.analysis import bootstrap, figures, server
from vllm_codesign.analysis.accounts import LATENCY
from vllm_codesign.analysis.bootstrap import ENOUGH_BATCHES, ENOUGH_REPEATS, Interval
from vllm_codesign.analysis.compare import Compared, Comparison, Measured
from vllm_codesign.analysis.finding import ms, number
from vllm_codesign.analysis.sheet import Sheet

COLUMNS = ("", "A", "B", "B - A", "interval", "")
_NONE = "–"
_NAMED = 4
"""Causes named in a sentence, the largest first."""
_WORTH_NAMING = 0.03
"""Share of the difference that a cause has at least to be named by itself."""
_GROUPS = (
    ("client, mean ms", ("client",)),
    ("accounting (latency)", ("part", "accounting")),
    ("phases", ("phase",)),
)
_UNITS = {"repeats": "servers", "batches": "batches", "requests": "requests"}
_OVERLAPPING = frozenset(
    f"phase.{phase.key}" for phase in server.PHASES if phase.side in ("busy", "sum")
)
"""Time within other phases: in the table, and no cause of its own."""


def verdict(found: Measured) -> str:
    """What the interval says, in two words; a dash where nothing can be said."""
    if found.judged is None:
        return _NONE
    return "beyond noise" if found.beyond_noise else "within noise"


def bracket(interval: Interval | None) -> str:
    """`[low, high]`, or a dash."""
    return f"[{signed(interval.low)}, {signed(interval.high)}]" if interval is not None else _NONE


def signed(value: float) -> str:
    """A difference in ms."""
    return f"{'+' if value > 0 else ''}{number(value)}"


def compare_sheet(found: Compared) -> Sheet:
    """Every figure that both sides have, in groups of one kind."""
    rows: list[tuple[str, ...]] = []
    for title, kinds in _GROUPS:
        group = [each for each in found.figures if each.figure.kind in kinds]
        if group:
            rows.append((title, *[""] * (len(COLUMNS) - 1)))
            rows += [_row(each) for each in group]
    first, second = found.n
    return Sheet(
        f"{found.scenario}: {first:,} requests of A, {second:,} of B{_of_units(found)}",
        COLUMNS,
        1,
        tuple(rows),
    )


def _of_units(found: Compared) -> str:
    if found.drawn is None or found.drawn == "requests":
        return ""
    return f", in {found.units[0]} and {found.units[1]} {_UNITS[found.drawn]}"


def _row(found: Measured) -> tuple[str, ...]:
    return (
        f"  {found.figure.label}",
        number(found.a),
        number(found.b),
        signed(found.value),
        bracket(found.interval),
        verdict(found),
    )


def sentence(found: Compared) -> str:
    """What became of the scenario, and where the time went."""
    head = found.headline
    text = f"{found.scenario}: {_change(head)}"
    if found.drawn in (None, "requests"):
        return f"{text}; no verdict: {_why_none(found)}"
    text += f", {verdict(head)}"
    ttft = found.of(figures.TTFT.key)
    if ttft is not None and ttft is not head and ttft.beyond_noise:
        text += f"; {_change(ttft)}{'' if head.beyond_noise else ', beyond noise'}"
    base = head if head.beyond_noise else ttft if ttft is not None and ttft.beyond_noise else None
    named = causes(found)
    small = [
        each
        for each in named
        if base is not None and abs(each.value) < _WORTH_NAMING * abs(base.value)
    ]
    named = [each for each in named if each not in small]
    small += named[_NAMED:]
    for place, each in enumerate(named[:_NAMED]):
        text += "; beyond it " if base is None and not place else "; "
        text += f"{each.figure.label} {signed(each.value)} ms {bracket(each.interval)}"
        if base is not None:
            share = f"{100 * each.value / base.value:.0f} %"
            text += f", {share}" + ("" if place else f" of the difference in {base.figure.label}")
    if small:
        text += (
            f"; {len(small)} more changed beyond noise, together "
            f"{signed(sum(each.value for each in small))} ms"
        )
    elif named or head.beyond_noise:
        text += "; nothing else changed beyond noise"
    else:
        text += "; nothing changed beyond noise"
    return text


def causes(found: Compared) -> list[Measured]:
    """What changed beyond noise, the largest first, nothing of it twice.

    Parts, since these sum to the total; for a part whose change is found in phases, those. Without
    parts, which need the accounting of both sides, phases alone.
    """
    parts = [each for each in found.figures if each.figure.kind == "part"]
    phases = {
        each.figure.key: each
        for each in found.figures
        if each.figure.kind == "phase" and each.beyond_noise and each.figure.key not in _OVERLAPPING
    }
    if not parts:
        return sorted(phases.values(), key=_size)
    named: dict[str, Measured] = {}
    for part in sorted((each for each in parts if each.beyond_noise), key=_size):
        inside = [
            phases[key]
            for key in figures.FINER.get(part.figure.key, ())
            if key in phases and phases[key].value * part.value > 0
        ]
        if sum(abs(each.value) for each in inside) >= abs(part.value) / 2:
            named.update((each.figure.key, each) for each in inside)
        else:
            named[part.figure.key] = part
    finer = {key for keys in figures.FINER.values() for key in keys}
    inside_named = {key for part in named for key in figures.FINER.get(part, ())}
    for key, phase in phases.items():
        if key in finer and key not in inside_named:
            named[key] = phase
    return sorted(named.values(), key=_size)


def _size(found: Measured) -> float:
    return -abs(found.value)


def _change(found: Measured) -> str:
    change = f"{found.figure.label} {number(found.a)} -> {ms(found.b)}, {signed(found.value)} ms"
    return f"{change} {bracket(found.interval)}" if found.interval is not None else change


def _why_none(found: Compared) -> str:
    if found.drawn is None:
        return "a single request does not say how much it varies"
    return (
        f"fewer than {ENOUGH_BATCHES} batches of a server, so requests were drawn, which share the "
        "fate of their batch"
    )


def bottlenecks(found: Compared) -> str | None:
    """The largest avoidable part on both sides; None where the accounting knows of none."""
    if found.bottlenecks == (None, None):
        return None
    said = [
        f"{part} ({count:,})" if each else _NONE
        for each in found.bottlenecks
        for part, count in [each or ("", 0)]
    ]
    return f"largest avoidable part of most requests: A {said[0]}, B {said[1]}"


def remarks(comparison: Comparison) -> Iterator[str]:
    """What was drawn again, what that cannot tell, and for how many figures it was corrected."""
    drawn = {found.drawn for found in comparison.scenarios}
    servers = f"{len(comparison.a.servers)} of A, {len(comparison.b.servers)} of B"
    if "repeats" in drawn:
        yield (
            f"drawn again: whole servers ({servers}), so the intervals hold what differs from "
            "start to start."
        )
    if "batches" in drawn:
        of = _named(_scenarios(comparison, "batches"))
        yield f"drawn again: {of}whole batches{_blocks(comparison)}."
    if "requests" in drawn:
        yield (
            f"drawn again: {_named(_scenarios(comparison, 'requests'))}requests, each by itself; "
            f"no verdict. {ENOUGH_BATCHES} batches of each server give one."
        )
    if drawn & {"batches", "requests"}:
        yield (
            f"servers: {servers}. Servers that are started alike differ too, and by how much these "
            f"cannot tell: {ENOUGH_REPEATS} servers of each can (`codesign bench --arm`)."
        )
    judged = [found for found in comparison.scenarios if found.headline.judged is not None]
    if judged:
        yield (
            f"intervals: bootstrap, {100 * bootstrap.CONFIDENCE:.0f} % corrected by Holm: totals "
            f"for {len(judged)} scenario{'s' if len(judged) > 1 else ''}, the rest for how many "
            "figures there are. Within noise: the interval holds 0."
        )


def _scenarios(comparison: Comparison, drawn: str) -> Sequence[str]:
    """Those of which this was drawn; none where it is all of them."""
    found = [each.scenario for each in comparison.scenarios if each.drawn == drawn]
    return found if len(found) < len(comparison.scenarios) else ()


def _named(scenarios: Sequence[str]) -> str:
    return f"of {', '.join(scenarios)} " if scenarios else ""


def _blocks(comparison: Comparison) -> str:
    arrivals = {run.arrival for side in (comparison.a, comparison.b) for run in side.runs}
    if arrivals <= {"batch"}:
        return ""
    return ", here blocks of requests in the order in which they were sent"


def plain(comparison: Comparison) -> dict[str, Any]:
    """JSON-able; times in ms, differences B less A, an absent figure is null."""
    return {
        "a": _side(comparison, 0),
        "b": _side(comparison, 1),
        "view": LATENCY,
        "confidence": bootstrap.CONFIDENCE,
        "lossy": list(comparison.lossy),
        "notes": [*comparison.notes, *comparison.of_servers],
        "remarks": list(remarks(comparison)),
        "scenarios": [
            {
                "scenario": found.scenario,
                "n": list(found.n),
                "drawn": found.drawn,
                "units": list(found.units),
                "headline": found.headline.figure.key,
                "within_noise": _within(found.headline),
                "sentence": sentence(found),
                "causes": [each.figure.key for each in causes(found)],
                "bottlenecks": [list(each) if each else None for each in found.bottlenecks],
                "notes": list(found.notes),
                "figures": {each.figure.key: _figure(each) for each in found.figures},
            }
            for found in comparison.scenarios
        ],
    }


def _side(comparison: Comparison, place: int) -> dict[str, Any]:
    side = (comparison.a, comparison.b)[place]
    return {
        "name": side.name,
        "servers": [
            {
                "path": str(each.path),
                "capture": str(each.view.capture.path) if each.view is not None else None,
                "results": each.bench is not None,
            }
            for each in side.servers
        ],
    }


def _within(found: Measured) -> bool | None:
    return None if found.judged is None else not found.judged.beyond_noise


def _figure(found: Measured) -> dict[str, Any]:
    return {
        "label": found.figure.label,
        "kind": found.figure.kind,
        "a_ms": found.a,
        "b_ms": found.b,
        "difference_ms": found.value,
        "interval": asdict(found.interval) if found.interval is not None else None,
        "confidence": found.judged.confidence if found.judged is not None else None,
        "p_corrected": found.judged.p if found.judged is not None else None,
        "within_noise": _within(found),
    }
